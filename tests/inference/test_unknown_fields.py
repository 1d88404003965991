"""Unknown functions and model error from the settings to the maps, the check and the saved fit, and
phantoms that contain them.
"""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from nanopinn.errors import InputError
from nanopinn.inference.engine_driver import fit_fv
from nanopinn.inference.fv_check import check_fit
from nanopinn.inference.problem import EngineFit
from nanopinn.inference.saved_fit import FittedProblem, fit_from_bytes, fit_to_bytes
from nanopinn.inference.uncertainty.identifiability import describe_limits, linearise_at_prior
from nanopinn.inference.unknown_fields import (
    add_unknown_functions,
    field_maps,
    model_error_maps,
    truncating_faces,
)
from nanopinn.phantoms.synthetic_study import make_phantom
from nanopinn.phantoms.truth import draw_anatomy, draw_fields
from nanopinn.settings import FitSettings, PhantomSettings
from nanopinn.solvers.grid import Domain

from .test_engines import small_problem

ASKED = FitSettings(field=("permeability",), model_error=0.1, release_law=True)


@pytest.fixture(scope="module")
def fitted() -> EngineFit:
    problem, notes = add_unknown_functions(small_problem()[0], ASKED)
    assert len(notes) == 3
    return fit_fv(problem, iterations=2)


def test_a_field_has_maps_of_its_sd_and_contraction(fitted) -> None:
    shape = fitted.problem.setting.grid.shape
    maps = {m.name: m for m in field_maps(fitted, Domain(shape, (0, 0, 0), shape))}
    assert set(maps) == {"permeability_factor", "permeability_contraction"}
    inside = fitted.problem.setting.maps.tumour.numpy() > 0.5
    factor, contraction = maps["permeability_factor"], maps["permeability_contraction"]
    assert np.isfinite(factor.values[inside]).all()
    assert np.isnan(factor.values[~inside]).all()
    # two post-dose images of 3 % noise reduce most of a prior sd of 0.5
    assert 0.5 < np.median(contraction.values[inside]) < 1.0
    prior_sd = (
        fitted.problem.setting.maps.shapes["permeability"]
        .square()
        .sum(dim=0)
        .sqrt()
        .numpy()[inside]
    )
    assert np.mean(prior_sd**2) == pytest.approx(0.25)
    np.testing.assert_allclose(
        (factor.std / factor.values)[inside], prior_sd * (1 - contraction.values[inside]), rtol=1e-6
    )


def test_the_model_error_is_mapped_and_limited_by_the_check(fitted) -> None:
    shape = fitted.problem.setting.grid.shape
    maps = model_error_maps(fitted, Domain(shape, (0, 0, 0), shape))
    assert [m.name for m in maps] == [
        "model_error_contrast",
        "model_error_encapsulated",
        "model_error_free",
    ]
    items = {i.name: i for i in check_fit(fitted.problem, fitted.theta, fitted.prediction).items}
    inside = fitted.problem.setting.maps.tumour.numpy() > 0.5
    for m in maps:
        item = items[f"model error of {m.name.removeprefix('model_error_')}, over fluxes"]
        assert item.value == pytest.approx(np.sqrt(np.mean(m.values[inside] ** 2)), rel=1e-6)
        assert item.limit == pytest.approx(0.1)


def test_coordinates_are_ordered_scalars_first(fitted) -> None:
    unknowns = fitted.problem.unknowns
    assert [s.name for s in fitted.run.scalars] == [u.name for u in unknowns.items]
    assert len(fitted.theta) == len(unknowns) == len(unknowns.names)
    assert unknowns.names[unknowns.where("release law")] == tuple(
        f"release law[{k}]" for k in range(5)
    )


def test_a_saved_problem_restores_fields_and_model_error(fitted) -> None:
    again = fit_from_bytes(fit_to_bytes(FittedProblem(fitted.problem, fitted.theta))).problem
    assert again.unknowns == fitted.problem.unknowns
    torch.testing.assert_close(
        again.setting.maps.shapes["permeability"],
        fitted.problem.setting.maps.shapes["permeability"],
    )
    torch.testing.assert_close(again.model_error.basis, fitted.problem.model_error.basis)
    assert (again.setting.maps.cut, again.model_error.prior_sd) == ((), 0.1)


def test_inflow_without_a_cut_face_and_repeated_fields_are_refused(fitted) -> None:
    mask = np.zeros((5, 5, 5), dtype=bool)
    mask[2, 2, 2] = True
    with pytest.raises(InputError, match="No face"):
        truncating_faces(mask, FitSettings(inflow=True))
    mask[4, 2, 2] = mask[3, 0, 2] = True
    assert truncating_faces(mask, FitSettings(inflow=True)) == ((0, 1), (1, 0))
    with pytest.raises(InputError, match="twice"):
        add_unknown_functions(fitted.problem, FitSettings(field=("release", "release:neural")))


def test_faces_with_less_than_four_fifths_of_the_largest_section_do_not_cut() -> None:
    mask = np.zeros((5, 10, 5), dtype=bool)
    mask[2:, :, 2] = True
    mask[4, 8:, 2] = False
    assert truncating_faces(mask, FitSettings()) == ((0, 1), (1, 0))
    mask[4, 7, 2] = False
    assert truncating_faces(mask, FitSettings()) == ((1, 0),)
    assert truncating_faces(mask, FitSettings(inflow=True)) == ((0, 1), (1, 0), (1, 1))


def test_functions_that_need_drug_images_are_named_without_them(fitted) -> None:
    _, notes = add_unknown_functions(
        replace(fitted.problem, drug=()),
        FitSettings(field=("release", "conductivity"), release_law=True),
    )
    note = next(n for n in notes if n.startswith("No drug image"))
    assert "release rate" in note
    assert "steepness" in note
    assert "conductivity" not in note


def test_limits_of_identifiability_name_scalars_beside_unknown_functions(fitted) -> None:
    problem = replace(fitted.problem, drug=())
    limits = " ".join(describe_limits(problem, linearise_at_prior(problem)))
    assert "PS_l" in limits
    assert "weight" not in limits


def test_a_box_ends_at_the_face_that_cuts_the_tumour() -> None:
    mask = np.zeros((8, 8, 8), dtype=bool)
    mask[5:8, 3:5, 3:5] = True
    box = Domain.from_mask(mask, (1e-3, 1e-3, 1e-3), 2e-3, ((0, 1),))
    assert (box.low, box.high) == ((3, 1, 1), (8, 7, 7))


def test_fields_of_a_phantom_do_not_change_its_other_random_numbers() -> None:
    shape, spacing = (20, 20, 16), (0.25, 0.25, 0.25)
    plain = draw_anatomy(shape, spacing, np.random.default_rng(7))
    drawn = draw_fields(plain, spacing, {"conductivity": 0.5, "release": 0.0}, 7)
    assert set(drawn.fields) == {"conductivity"}
    inside = drawn.fields["conductivity"][plain.tumour]
    assert (inside.mean(), inside.std()) == (pytest.approx(0.0, abs=1e-12), pytest.approx(0.5))
    assert not drawn.fields["conductivity"][~plain.tumour].any()
    assert drawn.PS is plain.PS


def test_a_truncated_phantom_equals_the_whole_inside_its_image(tmp_path) -> None:
    small = {
        "seed": 2,
        "shape": (10, 10, 8),
        "refine": 2,
        "frames": 10,
        "drug_times_h": (1.0,),
        "conductivity_sd": 0.5,
    }
    found = [
        make_phantom(tmp_path / str(cut), PhantomSettings(**small, cut_voxels=cut))
        for cut in (0, 3)
    ]
    for name in ("dce", "mask", "truth/IFP", "truth/conductivity_factor"):
        whole, cut = (np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj) for folder in found)
        np.testing.assert_array_equal(cut, whole[:7])
    assert np.asarray(nib.load(found[1] / "mask.nii.gz").dataobj)[-1].any()
