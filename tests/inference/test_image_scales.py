"""Scales of drug images: eliminated where images are calibrated, estimated where they are not; and
the error of the pH map that all voxels share.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nanopinn.errors import InputError
from nanopinn.inference.drug_fit import calibrate_relative_images
from nanopinn.inference.drug_setup import FREE_SCALE_SD, OWN_SCALE_SD, SHARED_SCALE_SD
from nanopinn.inference.engine_driver import fit_fv
from nanopinn.inference.error_effects import scale_error_effects, scaled_quantities, with_scales
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.observations import DrugObservation
from nanopinn.inference.problem import EngineFit

from .test_engines import small_problem

#: Unknowns of the fits here; the others keep the values of the data. Most of the carrier enters
#: with filtration, in proportion to the transmission.
FITTED = ("l", "leak_l", "krel_ref")


def scaled(d: DrugObservation, factor: float) -> DrugObservation:
    """An image and its noise times a factor."""
    return replace(d, measured=factor * d.measured, noise_sd=factor * d.noise_sd, sd=factor * d.sd)


@pytest.fixture(scope="module")
def posed() -> InverseProblem:
    """A small tumour whose data have the prior medians, with few unknowns."""
    problem = small_problem(n=8, off=0.0)[0]
    names = frozenset(problem.unknowns.names) - set(FITTED)
    return replace(problem, unknowns=problem.unknowns.without(names))


def with_scale_errors(problem: InverseProblem, shared: float, own: float) -> InverseProblem:
    drug = tuple(replace(d, shared_scale_sd=shared, own_scale_sd=own) for d in problem.drug)
    return replace(problem, drug=drug)


def relative(problem: InverseProblem, factor: float) -> InverseProblem:
    """The problem with images in arbitrary units, and their scale at the prior's prediction."""
    drug = tuple(
        replace(
            scaled(d, factor),
            relative=True,
            shared_scale_sd=FREE_SCALE_SD,
            own_scale_sd=OWN_SCALE_SD,
        )
        for d in problem.drug
    )
    return calibrate_relative_images(replace(problem, drug=drug))


@pytest.fixture(scope="module")
def calibrated(posed) -> EngineFit:
    return fit_fv(with_scale_errors(posed, SHARED_SCALE_SD, OWN_SCALE_SD))


def test_an_image_of_another_scale_gives_the_same_scalars(posed) -> None:
    """A scale whose prior is wide absorbs a factor on its image."""
    wide = with_scale_errors(posed, 0.0, 0.7)
    drug = (wide.drug[0], scaled(wide.drug[1], 1.2), *wide.drug[2:])
    plain, other = fit_fv(wide), fit_fv(replace(wide, drug=drug))
    assert plain.run.converged
    assert other.run.converged
    sd = np.sqrt(np.diag(plain.run.covariance))
    # a prior of 0.7 and images known to a per cent or so keep the scale within a few per cent
    assert (np.abs(other.theta - plain.theta) < 0.2 * sd).all(), (other.theta - plain.theta) / sd
    ratios = [
        a.scale / b.scale for a, b in zip(other.problem.drug, plain.problem.drug, strict=True)
    ]
    assert ratios[1] == pytest.approx(1.2, rel=0.05)
    assert [ratios[i] for i in (0, 2, 3)] == pytest.approx([1.0] * 3, rel=0.05)
    # without the scale the same image moves the scalars
    fixed = with_scale_errors(replace(wide, drug=drug), 0.0, 0.0)
    moved = fit_fv(fixed)
    assert (np.abs(moved.theta - plain.theta) > 2 * np.sqrt(np.diag(moved.run.covariance))).any()


def test_scale_errors_widen_the_intervals_of_what_amounts_determine(posed, calibrated) -> None:
    fixed = fit_fv(with_scale_errors(posed, 0.0, 0.0))
    at = fixed.problem.unknowns.names.index("leak_l")
    certain, uncertain = (np.sqrt(np.diag(f.run.covariance))[at] for f in (fixed, calibrated))
    # 10 % shared and 10 % of each of two images: entry is proportional to the amount
    assert uncertain > 2 * certain
    assert 0.05 < uncertain < 0.25


def test_the_unit_of_images_in_arbitrary_units_changes_nothing(posed, calibrated) -> None:
    fits = [fit_fv(relative(posed, factor)) for factor in (1.0, 3.7e4)]
    np.testing.assert_allclose(fits[1].theta, fits[0].theta, atol=1e-6)
    np.testing.assert_allclose(fits[1].run.covariance, fits[0].run.covariance, rtol=1e-5, atol=1e-9)
    for a, b in zip(fits[1].problem.drug, fits[0].problem.drug, strict=True):
        assert a.scale == pytest.approx(3.7e4 * b.scale, rel=1e-5)
    # the flow and the release rate need no calibration; entry needs one, for which encapsulated
    # drug in the vessels, whose concentration is known here, stands in part
    names = fits[0].problem.unknowns.names
    sd = dict(zip(names, np.sqrt(np.diag(fits[0].run.covariance)), strict=True))
    apart = dict(zip(names, np.abs(fits[0].theta - calibrated.theta), strict=True))
    assert apart["l"] < sd["l"]
    assert apart["krel_ref"] < sd["krel_ref"]
    known = np.sqrt(np.diag(calibrated.run.covariance))[names.index("leak_l")]
    assert sd["leak_l"] > 1.25 * known


def test_one_scale_serves_all_relative_images_of_a_quantity(posed) -> None:
    problem = relative(posed, 10.0)
    for quantity in scaled_quantities(problem.drug):
        own = {d.scale for d in problem.drug if d.quantity == quantity}
        assert len(own) == 1
        # the data have the prior medians, but for their noise of 3 per cent
        assert own.pop() == pytest.approx(10.0, rel=0.05)
    assert calibrate_relative_images(posed) is posed
    negative = replace(
        problem,
        drug=tuple(
            replace(d, measured=-d.measured, scale=1.0, base_scale=1.0) for d in problem.drug
        ),
    )
    with pytest.raises(InputError, match="no signal in the tumour"):
        calibrate_relative_images(negative)


def test_the_effect_of_a_scale_is_the_derivative_of_the_images(posed) -> None:
    problem = with_scale_errors(posed, SHARED_SCALE_SD, OWN_SCALE_SD)
    theta = problem.unknowns.prior_mean
    fields = problem.solve(theta, problem.forward())
    effect = scale_error_effects(problem, fields)
    assert effect.shape[1] == 2 + len(problem.drug)
    step = 1e-5
    assert fields.pools is not None
    for k, column in enumerate(effect.T):
        errors = step * torch.eye(effect.shape[1], dtype=torch.float64)[k]
        above, below = (
            replace(problem, drug=with_scales(problem.drug, e)).drug_misfit(fields.pools)
            for e in (errors, -errors)
        )
        torch.testing.assert_close(column, (above - below) / (2 * step), rtol=1e-6, atol=1e-7)


def test_maps_include_the_shared_error_of_pH_and_that_of_no_voxel() -> None:
    problem, truth = small_problem(n=8, off=0.0)
    tumour, maps = problem.setting.maps.tumour, problem.setting.maps
    generator = torch.Generator().manual_seed(2)
    local = 0.1 * tumour * torch.randn((5, *tumour.shape), generator=generator, dtype=torch.float64)
    basis = torch.cat([local, 0.05 * tumour[None]])
    # the map reads 0.1 too high everywhere in the tumour
    problem = replace(
        problem,
        pH_error_basis=basis,
        setting=replace(problem.setting, maps=replace(maps, pH=maps.pH + 0.1 * tumour)),
    )
    for _ in range(3):
        fields = problem.solve(truth, problem.forward())
        problem = problem.with_systematic_errors(truth, fields).update_linearisation(truth, fields)
    assert problem.errors is not None
    included = problem.errors.pH
    assert not included[:-1].any()
    # at the true scalars the images show the error, 2 sd of its prior
    assert float(included[-1]) == pytest.approx(-2.0, abs=0.5)
    torch.testing.assert_close(
        problem.setting.maps.pH, maps.pH + (0.1 + 0.05 * float(included[-1])) * tumour
    )
    # the errors of voxels are eliminated nevertheless
    estimate = problem.errors.drug.conditional_estimate(problem.drug_misfit(fields.pools))
    assert bool(estimate[problem.errors.drug_columns["pH"]][:-1].any())
