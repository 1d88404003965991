"""Tangents, engines and check; the data come from a finer grid and another time scheme."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nanopinn.imaging.dce.impulse_response import InputCurve, PlasmaCurve, evaluate
from nanopinn.imaging.dce.models import extended_tofts
from nanopinn.imaging.dce.voxel_fit import fit_kinetics
from nanopinn.inference.engine_driver import _Driver, fit_fv
from nanopinn.inference.fv_check import check_fit
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.krylov.krylov_engine import KrylovSettings, ReducedBasisTangents
from nanopinn.inference.observations import ContrastObservation, DrugObservation
from nanopinn.inference.problem import EngineFit
from nanopinn.inference.saved_fit import FittedProblem
from nanopinn.inference.uncertainty.profile import profile_unknown
from nanopinn.inference.unknowns import UnknownSet, scalar_unknowns
from nanopinn.parameters import value
from nanopinn.physics.formulation_library import PH_SENSITIVE
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.progress import ignore_progress
from nanopinn.solvers.drug_course import bolus_course
from nanopinn.solvers.grid import Grid, average_subcells
from nanopinn.solvers.runge_kutta import SDIRK3
from nanopinn.solvers.tissue_setting import TissueSetting

NOISE = 0.03


def small_problem(
    distort: float = 1.0, n: int = 12, off: float = 0.3
) -> tuple[InverseProblem, np.ndarray]:
    """A tumour of ``n - 4`` voxels across, its unknowns ``off`` prior sd off.

    ``distort`` scales the late drug images, which no parameters can explain.
    """
    h = 0.5e-3
    x = (torch.arange(n, dtype=torch.float64) + 0.5) * h - n * h / 2
    r = torch.sqrt(x[:, None, None] ** 2 + x[None, :, None] ** 2 + x[None, None, :] ** 2)
    tumour = (r < (n / 2 - 2) * h).double()
    generator = torch.Generator().manual_seed(0)
    wave = 1 + 0.3 * torch.sin(4e3 * x)[:, None, None] * torch.cos(3e3 * x)[None, :, None]
    maps = TissueMaps(
        tumour,
        wave * torch.where(tumour > 0.5, 1.7e-3, 3.3e-4) * torch.ones_like(r),
        0.3 * torch.ones_like(r),
        0.03 * torch.ones_like(r),
        6.8 + 0.2 * torch.sin(2e3 * x)[None, None, :] * torch.ones_like(r),
    )
    unknowns = UnknownSet(scalar_unknowns())
    truth = unknowns.prior_mean + off * unknowns.prior_sd * np.array(
        [1, -1, 1, 1, 0, 1, 0, 1, 0, 0]
    )
    t = np.concatenate([[20.0, 22.0], np.arange(24.0, 420.0, 2.0)])
    aif = PlasmaCurve(t, 6.0 * np.exp(-(t - 20) / 60) + 1.0)
    frames = np.arange(0.0, 400.0, 10.0)
    voxels = tumour > 0.5
    count = int(voxels.sum())
    nothing = ContrastObservation(
        torch.zeros(40, count).double(),
        torch.ones(count).double(),
        voxels,
        torch.zeros(count, 40, 1).double(),
    )
    blank = [0 * r, 0 * r + 1, 0 * r + 1, voxels]
    images = tuple(
        DrugObservation(3600 * hours, kind, *blank)
        for hours in (1.0, 12.0)
        for kind in ("encapsulated", "released")
    )
    setting = TissueSetting(
        maps, Grid((n, n, n), (h, h, h)), 2
    )  # a voxel is as wide as l: the flow needs a finer grid
    no_spread = torch.zeros((2, 2, n, n, n), dtype=torch.float64)
    bumps = torch.zeros((1, n, n, n), dtype=torch.float64)
    measured = torch.stack([maps.PS, maps.phi, maps.v_p])
    problem = InverseProblem(
        unknowns=unknowns,
        setting=setting,
        kinetics=measured,
        local_kinetics=measured,
        aif=aif,
        frame_times=frames,
        contrast=nothing,
        drug=images,
        course=bolus_course(PH_SENSITIVE, value("Dose")),
        pH_error_basis=bumps,
        closure_basis=bumps,
        kinetic_covariance=no_spread,
    )
    fine = replace(problem, setting=replace(setting.refined(2), flow_refine=1))
    fields = fine.solve(truth, fine.forward(), scheme=SDIRK3)
    C, pools = average_subcells(fields.contrast, 2), average_subcells(fields.pools, 2)
    curve = InputCurve(aif, frames)
    apparent = fit_kinetics(extended_tofts, C[:, voxels].T.contiguous(), curve).parameters
    measured = measured.clone()
    measured[:, voxels] = apparent.T
    explained = torch.linalg.qr(evaluate(extended_tofts, apparent, curve)[1].transpose(1, 2))[0]
    sd = NOISE * float(C[:, voxels].max())
    noisy = C + sd * torch.randn(C.shape, generator=generator, dtype=torch.float64)
    given, images = images, []
    for d in given:
        image = d.predict(pools[problem.node_index(d)], maps, problem.plasma_at(d.time_s))
        noise = NOISE * float(image[voxels].max())
        factor = distort if d.time_s > 7200 and d.quantity == "encapsulated" else 1.0
        spotted = image * (1 + (factor - 1) * torch.sign(torch.sin(6e3 * x))[:, None, None])
        images.append(
            replace(
                d,
                measured=spotted
                + noise * torch.randn(r.shape, generator=generator, dtype=torch.float64),
                noise_sd=noise * torch.ones_like(r),
                sd=noise * torch.ones_like(r),
            )
        )
    contrast = replace(
        nothing,
        measured=noisy[:, voxels],
        noise_sd=sd * torch.ones(count, dtype=torch.float64),
        nuisance_basis=explained,
    )
    return replace(problem, contrast=contrast, drug=tuple(images), kinetics=measured), truth


@pytest.fixture(scope="module")
def problem() -> tuple[InverseProblem, np.ndarray]:
    return small_problem()


def test_tangents_equal_central_differences(problem) -> None:
    p, truth = problem
    forward = p.forward()
    J = p.predict(truth, forward, tangents=True).jacobian
    for j in range(len(truth)):
        step = np.zeros(len(truth))
        step[j] = 1e-4
        difference = (
            p.predict(truth + step, forward).residual - p.predict(truth - step, forward).residual
        ) / 2e-4
        # linear solves of 1e-7 (tangents) and 1e-9 over a step of 1e-4 leave 1e-4 relative
        assert float((difference - J[:, j]).norm()) <= 2e-4 * float(J.norm(dim=0).max()), (
            p.unknowns.names[j]
        )


def test_no_image_depends_on_the_driving_pressure(problem) -> None:
    p, truth = problem
    J = p.predict(truth, p.forward(), tangents=True).jacobian
    assert float(J[:, p.unknowns.names.index("p_e")].norm()) < 1e-8 * float(J.norm())


@pytest.fixture(scope="module")
def fit(problem) -> EngineFit:
    return fit_fv(problem[0])


def test_gauss_newton_recovers_the_identifiable_unknowns_and_the_check_passes(problem, fit) -> None:
    p, truth = problem
    assert fit.run.converged
    sd = np.sqrt(np.diag(fit.run.covariance))
    errors = dict(zip(p.unknowns.names, (fit.theta - truth) / sd, strict=True))
    # ten unknowns: the largest of ten normal errors exceeds 3 sd once in 40 draws; this draw has
    # 2.2
    assert max(abs(e) for e in errors.values()) < 3, errors
    for name in ("l", "PS_l", "krel_ref"):
        assert abs(fit.theta - truth)[p.unknowns.names.index(name)] < np.log(1.25), name
    assert fit.run["p_e"].contraction == pytest.approx(0.0, abs=1e-6)
    check = check_fit(fit.problem, fit.theta, fit.prediction)
    assert check.passed, check.headline


def test_profiles_of_a_voxel_fit_are_bounded_only_where_identified(
    fit,
) -> None:
    end = FittedProblem.from_fit(fit)
    length, p_e = (
        profile_unknown(end.problem, end.theta, name, expansion=end.tangents)
        for name in ("l", "p_e")
    )
    assert length.bounded == (True, True)
    assert p_e.bounded == (False, False)
    np.testing.assert_allclose(p_e.interval, fit.run["p_e"].prior_interval(), rtol=5e-3)
    # l is known to 4 %, where the model is nearly linear: Laplace is nearly right, ends within a
    # sixth of an sd
    np.testing.assert_allclose(
        np.log(length.interval), np.log(length.laplace), atol=0.15 * fit.run["l"].sd
    )
    anew = end.problem.objective(
        length.theta[0], end.problem.predict(length.theta[0], end.problem.forward())
    )
    # linear solves to 1e-7 of residuals whose square is 1e4
    assert anew == pytest.approx(length.objective[0], abs=0.02)
    assert length.theta[0][end.problem.unknowns.names.index("l")] == pytest.approx(
        np.log(length.values[0] * 1e-3)
    )


def test_the_check_fails_on_data_that_no_parameters_explain() -> None:
    p, _ = small_problem(distort=1.3)
    fit = fit_fv(p, iterations=6)
    check = check_fit(fit.problem, fit.theta, fit.prediction)
    assert not check.passed
    assert "misfit of encapsulated at 12 h, chi2/N" in [i.name for i in check.items if not i.passed]


def test_krylov_tangents_equal_finite_volume_tangents(problem) -> None:
    p, _ = problem
    theta = p.unknowns.prior_mean
    driver = _Driver(p, ReducedBasisTangents(KrylovSettings(), 0), 1, ignore_progress)
    driver.expand(theta)
    found = driver.last.jacobian
    exact = driver.problem.predict(theta, driver.solver, tangents=True).jacobian
    for j, name in enumerate(p.unknowns.names):
        if float(exact[:, j].norm()) > 1e-3 * float(exact.norm()):
            # measured at a phantom of 14 x 14 x 10 voxels: at most 1.5 %, of which 0.8 % are the
            # time steps of finite volumes
            assert float((found[:, j] - exact[:, j]).norm()) < 0.03 * float(exact[:, j].norm()), (
                name
            )
