"""Unknown functions of space and pH: tangents, priors, and flow through cut faces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from nanopinn.errors import InputError
from nanopinn.imaging.dce.impulse_response import PlasmaCurve
from nanopinn.inference.basis import (
    field_posterior,
    field_unknown,
    gaussian_radial_basis,
    inflow_unknown,
    release_law_unknown,
)
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.unknown_fields import inflow_radial_basis, parse_field
from nanopinn.parameters import INFLOW, MULTIPLIERS
from nanopinn.physics.release import PH_WARP_KNOTS, acid_release_rate, warp_ph
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.physics.tumour import TumourModel
from nanopinn.solvers.fluxes import divergence
from nanopinn.solvers.forward import ForwardModel
from nanopinn.solvers.grid import Grid, average_subcells
from nanopinn.solvers.tissue_setting import TissueSetting

from .test_engines import small_problem

W = torch.tensor([0.5, -0.7, 0.3, 0.0, 0.9], dtype=torch.float64)


@pytest.fixture(scope="module")
def problem() -> InverseProblem:
    return small_problem()[0]


def with_every_function(problem: InverseProblem) -> InverseProblem:
    """The problem with all fields, each of a few wide basis functions, and the release law."""
    maps = problem.setting.maps
    basis = 0.5 * torch.as_tensor(
        gaussian_radial_basis(
            maps.tumour.numpy() > 0.5, np.array(problem.setting.grid.spacing), 3e-3
        )
    )
    functions = (
        *(field_unknown(name, basis, 0.5, 3e-3) for name in MULTIPLIERS),
        release_law_unknown(),
    )
    setting = replace(
        problem.setting, maps=replace(maps, shapes={name: basis for name in MULTIPLIERS})
    )
    return replace(
        problem, setting=setting, unknowns=replace(problem.unknowns, functions=functions)
    )


def test_tangents_of_functions_equal_central_differences(problem) -> None:
    p = with_every_function(problem)
    rng = np.random.default_rng(0)
    theta = p.unknowns.prior_mean + 0.3 * p.unknowns.prior_sd * rng.standard_normal(len(p.unknowns))
    forward = p.forward()
    J = p.predict(theta, forward, tangents=True).jacobian
    for f in p.unknowns.functions:
        along = np.zeros(len(theta))
        along[p.unknowns.where(f.name)] = rng.standard_normal(f.count)
        difference = (
            p.predict(theta + 1e-4 * along, forward).residual
            - p.predict(theta - 1e-4 * along, forward).residual
        ) / 2e-4
        exact = J @ torch.as_tensor(along)
        # as for scalars: linear solves to 1e-7 divided by a step of 1e-4
        assert float((difference - exact).norm()) <= 2e-4 * float(
            exact.norm().clamp_min(J.norm(dim=0).max())
        ), f.name
        assert float(exact.norm()) > 1.0, f"{f.name} moves no image"


def test_functions_with_zero_weights_change_no_prediction(problem) -> None:
    p = with_every_function(problem)
    a, b = (q.predict(q.unknowns.prior_mean, q.forward()).residual for q in (problem, p))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_a_multiplier_changes_only_its_own_property(problem) -> None:
    p = with_every_function(problem)
    theta = torch.as_tensor(p.unknowns.prior_mean)
    plain = TumourModel.from_maps(p.setting.maps, p.unknowns.scalars(theta))
    at = p.unknowns.where("conductivity")
    theta[at] = 1.0
    model = TumourModel.from_maps(p.setting.maps, p.unknowns.scalars(theta))
    factor = torch.exp(p.setting.maps.shapes["conductivity"].sum(dim=0))
    torch.testing.assert_close(model.flow_coefficients().K, factor * plain.flow_coefficients().K)
    torch.testing.assert_close(model.flow_coefficients().LpSV, plain.flow_coefficients().LpSV)
    torch.testing.assert_close(model.release_rate(), plain.release_rate())


def test_radial_basis_functions_have_unit_variance_and_sampled_fields_agree() -> None:
    inside = np.zeros((9, 8, 7), dtype=bool)
    inside[2:7, 2:6, 1:6] = True
    basis = gaussian_radial_basis(inside, np.full(3, 0.7e-3), 1.5e-3)
    np.testing.assert_allclose((basis**2).sum(axis=0)[inside], 1.0)
    assert not basis[:, ~inside].any()


def test_the_monotone_warp_is_the_integral_of_its_slope() -> None:
    pH = np.array([5.9, 6.3, 6.8, 7.0, 7.7])
    steepness = lambda s: np.exp(np.interp(s, PH_WARP_KNOTS, W.numpy()))  # noqa: E731
    expected = [
        PH_WARP_KNOTS[0]
        + quad(steepness, PH_WARP_KNOTS[0], x, points=PH_WARP_KNOTS[1:-1] if x > 6.8 else None)[0]
        for x in pH
    ]
    np.testing.assert_allclose(warp_ph(torch.as_tensor(pH), W).numpy(), expected, rtol=1e-7)


def test_every_release_law_falls_with_pH_and_keeps_its_reference_rate() -> None:
    pH = torch.linspace(5.5, 8.0, 200, dtype=torch.float64)
    for seed in range(5):
        w = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        rate = acid_release_rate(pH, 4.6e-5, 1e-6, 6.2, 2.0, 6.8, w)
        assert bool((rate.diff() < 0).all())
        at = acid_release_rate(
            torch.tensor([6.8], dtype=torch.float64), 4.6e-5, 1e-6, 6.2, 2.0, 6.8, w
        )
        assert float(at) == pytest.approx(4.6e-5, rel=1e-12)


def test_a_field_that_affects_no_image_keeps_its_prior() -> None:
    shapes = torch.as_tensor(
        0.5 * gaussian_radial_basis(np.ones((4, 4, 4), dtype=bool), np.full(3, 1e-3), 2e-3)
    )
    k = len(shapes)
    prior_only = field_posterior(shapes, torch.zeros(k).double(), torch.eye(k).double())
    torch.testing.assert_close(prior_only.sd, torch.full_like(prior_only.sd, 0.5))
    assert float(prior_only.contraction.abs().max()) < 1e-12
    known = field_posterior(shapes, torch.zeros(k).double(), 0.04 * torch.eye(k).double())
    torch.testing.assert_close(known.contraction, torch.full_like(known.sd, 0.8))


def test_fields_that_do_not_exist_are_refused() -> None:
    for text, expected in (("porosity", "conductivity"), ("release:wavelets", "neural")):
        with pytest.raises(InputError, match=expected):
            parse_field(text)
    assert parse_field("release:neural") == ("release", "neural")


def cut_problem(problem: InverseProblem) -> InverseProblem:
    """The problem with a box that ends in the middle of the tumour, and unknown inflow there."""

    def half(t: torch.Tensor) -> torch.Tensor:
        return t[..., :6, :, :].contiguous()

    m, grid = problem.setting.maps, problem.setting.grid
    maps = replace(
        m,
        tumour=half(m.tumour),
        PS=half(m.PS),
        phi=half(m.phi),
        v_p=half(m.v_p),
        pH=half(m.pH),
        cut=((0, 1),),
    )
    setting = replace(problem.setting, maps=maps, grid=replace(grid, shape=(6, *grid.shape[1:])))
    kept = half(problem.contrast.voxels)
    picked = torch.nonzero(problem.contrast.voxels)[:, 0] < 6
    c = problem.contrast
    contrast = replace(
        c,
        measured=c.measured[:, picked],
        noise_sd=c.noise_sd[picked],
        voxels=kept,
        nuisance_basis=c.nuisance_basis[picked],
    )
    drug = tuple(
        replace(d, **{k: half(getattr(d, k)) for k in ("measured", "noise_sd", "sd", "voxels")})
        for d in problem.drug
    )
    p = replace(
        problem,
        setting=setting,
        contrast=contrast,
        drug=drug,
        kinetics=half(problem.kinetics),
        local_kinetics=half(problem.local_kinetics),
        pH_error_basis=half(problem.pH_error_basis),
        closure_basis=half(problem.closure_basis),
        kinetic_covariance=half(problem.kinetic_covariance),
    )
    shapes = inflow_radial_basis(p)
    setting = replace(setting, maps=replace(maps, shapes={INFLOW: shapes}))
    return replace(
        p,
        setting=setting,
        unknowns=replace(p.unknowns, functions=(inflow_unknown(shapes, 0.5, 1.5e-3),)),
    )


def _inflow_of_parts(p: InverseProblem, theta: torch.Tensor) -> torch.Tensor:
    """Mean velocity over the fine faces of each face of the map grid."""
    fine = TumourModel.from_maps(
        p.setting.flow_setting.maps, p.unknowns.scalars(theta)
    ).inflow_velocity()
    return average_subcells(fine, 2)[-1]


def test_a_cut_face_passes_only_the_inflow(problem) -> None:
    p = cut_problem(problem)
    theta = torch.as_tensor(p.unknowns.prior_mean)
    assert not p.forward().solve_flow(theta).flows[0][-1].any()
    theta[p.unknowns.where(INFLOW)] = 1.0
    flow = p.forward().solve_flow(theta)
    model = p.forward().model(theta)
    area = p.setting.grid.face_area(0)
    # the inflow of a coarse face is that of its four fine faces
    torch.testing.assert_close(flow.flows[0][-1], -area * _inflow_of_parts(p, theta))
    assert float(model.inflow_velocity().max()) > 0.1 * float(
        model.scalars["q"] * model.scalars["l"]
    )
    # fluid is conserved in every cell: the filtration and the inflow equal the outflow and the
    # lymphatic drainage
    torch.testing.assert_close(
        divergence(flow.flows, p.setting.grid),
        flow.J_v - flow.J_L,
        rtol=0,
        atol=1e-9 * float(flow.J_v.max()),
    )


def test_tangents_of_the_inflow_equal_central_differences(problem) -> None:
    p = cut_problem(problem)
    rng = np.random.default_rng(1)
    theta = p.unknowns.prior_mean + 0.3 * p.unknowns.prior_sd * rng.standard_normal(len(p.unknowns))
    along = np.zeros(len(theta))
    along[p.unknowns.where(INFLOW)] = rng.standard_normal(p.unknowns.functions[0].count)
    forward = p.forward()
    exact = p.predict(theta, forward, tangents=True).jacobian @ torch.as_tensor(along)
    difference = (
        p.predict(theta + 1e-4 * along, forward).residual
        - p.predict(theta - 1e-4 * along, forward).residual
    ) / 2e-4
    assert float((difference - exact).norm()) <= 2e-3 * float(exact.norm())
    assert float(exact.norm()) > 1.0


ONE_CURVE = PlasmaCurve(np.arange(0.0, 100.0, 5.0), 5.0 * np.exp(-np.arange(0.0, 100.0, 5.0) / 60))


def spherical_tumour() -> TissueMaps:
    """A spherical tumour in the middle of a box of 10^3 cells of 0.5 mm."""
    x = (torch.arange(10, dtype=torch.float64) - 4.5) * 0.5e-3
    r = torch.sqrt(x[:, None, None] ** 2 + x[None, :, None] ** 2 + x[None, None, :] ** 2)
    one = torch.ones_like(r)
    return TissueMaps((r < 1.6e-3).double(), 1e-3 * one, 0.3 * one, 0.03 * one, 6.8 * one)


def half_box(maps: TissueMaps, side: int) -> TissueMaps:
    """Half of a box, cut along x on a side where fluid may enter the tumour."""
    part = slice(0, 5) if side else slice(5, 10)
    halves = {k: getattr(maps, k)[part] for k in ("tumour", "PS", "phi", "v_p", "pH")}
    layer = torch.zeros((1, 5, 10, 10), dtype=torch.float64)
    layer[0, -side] = halves["tumour"][-side]
    return TissueMaps(**halves, shapes={INFLOW: layer}, cut=((0, side),))


def solved(maps: TissueMaps, inflow: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    none = torch.zeros(0, dtype=torch.float64)
    scalars = {} if inflow is None else {INFLOW: torch.full((1,), inflow, dtype=torch.float64)}
    forward = ForwardModel(
        TissueSetting(maps, Grid((*maps.phi.shape,), (0.5e-3,) * 3), 2), lambda _: scalars
    )
    flow = forward.solve_flow(none)
    return flow.p, forward.solve_contrast(none, flow, ONE_CURVE, np.arange(0.0, 90.0, 15.0))[0]


@pytest.mark.parametrize("side", [0, 1])
def test_half_a_tumour_at_its_plane_of_symmetry_equals_the_whole(side) -> None:
    """Exact solution for a cut: no flow through a plane of symmetry, on the same grid."""
    p, C = solved(spherical_tumour())
    p_half, C_half = solved(half_box(spherical_tumour(), side))
    part, fine = (slice(0, 5), slice(0, 10)) if side else (slice(5, 10), slice(10, 20))
    torch.testing.assert_close(p_half, p[fine], rtol=1e-8, atol=0)
    torch.testing.assert_close(C_half, C[:, part], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("inflow", [0.5, -0.5])
def test_inflow_is_symmetric_in_the_side_and_raises_the_pressure(inflow) -> None:
    (p0, C0), (p1, C1) = (solved(half_box(spherical_tumour(), side), inflow) for side in (0, 1))
    torch.testing.assert_close(p0, p1.flip(0), rtol=1e-8, atol=0)
    torch.testing.assert_close(C0, C1.flip(1), rtol=1e-6, atol=1e-12)
    rise = (p0 - solved(half_box(spherical_tumour(), 0))[0]) * np.sign(inflow)
    assert float(rise.min()) > 0
    assert int(rise.argmax()) // (20 * 20) == 0, "most where it enters"


def test_a_tumour_at_the_edge_of_the_box_is_refused_without_cut_faces(
    problem,
) -> None:
    p = cut_problem(problem)
    with pytest.raises(InputError, match="touches the boundary"):
        replace(p.setting, maps=replace(p.setting.maps, cut=()))


def test_missing_frames_change_no_other_frame() -> None:
    forward = ForwardModel(
        TissueSetting(spherical_tumour(), Grid((10, 10, 10), (0.5e-3,) * 3), 1), lambda _: {}
    )
    none = torch.zeros(0, dtype=torch.float64)
    flow = forward.solve_flow(none)
    t = np.arange(0.0, 500.0, 5.0)
    curve, frames = PlasmaCurve(t, 5.0 * np.exp(-t / 60)), np.arange(0.0, 480.0, 15.0)
    kept = [0, 1, *range(18, 32)]
    whole, gap = (forward.solve_contrast(none, flow, curve, f)[0] for f in (frames, frames[kept]))
    torch.testing.assert_close(gap, whole[kept], rtol=1e-6, atol=1e-9)
