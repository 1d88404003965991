"""Reduction of the uncertainty of an outcome by each post-dose image, and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nanopinn import FitSettings, ImagingInputs, PhantomSettings, make_phantom
from nanopinn.errors import InputError
from nanopinn.inference.unknowns import scalar_unknowns
from nanopinn.physics.formulation_library import PH_SENSITIVE
from nanopinn.report.plan_summary import describe_minimal_imaging, format_minimal_imaging
from nanopinn.results import MinimalImaging
from nanopinn.studies.arms.draws import InputDraws
from nanopinn.studies.arms.patient import Patient
from nanopinn.studies.minimal_imaging import outcome_uncertainty_by_images

from .fitted import arm

ARMS = (arm(PH_SENSITIVE),)
PRIOR_SD = {u.name: u.prior_sd for u in scalar_unknowns()}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantom(
        tmp_path_factory.mktemp("p") / "s",
        PhantomSettings(shape=(12, 12, 8), refine=2, frames=30, frame_spacing_s=15.0),
    )


def inputs(study: Path) -> ImagingInputs:
    return ImagingInputs(
        dce=study / "dce.nii.gz", cest=study / "ph.nii.gz", mask=study / "mask.nii.gz", t1=1.4
    )


def settings(study: Path, **more: object) -> FitSettings:
    # in no order: names sort 24 h before 2 h
    drug = tuple(str(p) for p in sorted(study.glob("drug_*.nii.gz")))
    return FitSettings(engine="fv", preset="fast", device="cpu", drug=drug, **more)  # type: ignore[arg-type]


def passage(_: Patient, draws: InputDraws) -> np.ndarray:
    return draws.scalars["PS_l"]


@pytest.fixture(scope="module")
def found(study: Path) -> MinimalImaging:
    return outcome_uncertainty_by_images(
        inputs(study), settings(study), ARMS, passage, name="passage", unit="1/s", draws=2000
    )


@pytest.mark.slow
def test_the_sd_of_an_outcome_falls_from_its_prior_with_each_image(found: MinimalImaging) -> None:
    prior, alone, one, two = found.stages
    assert [w.images for w in found.stages] == [0, 0, 1, 2]
    assert "2 h after" in one.name
    assert "2 h + 24 h after" in two.name
    # sampling error of a standard deviation of 2000 draws
    assert prior.sd == pytest.approx(PRIOR_SD["PS_l"], rel=0.07)
    # a scan before the dose says nothing of the carrier
    assert alone.sd == pytest.approx(prior.sd, rel=1e-3)
    # a tumour of few voxels away from its border: an image of the carrier takes a good part of the
    # spread, not nearly all
    assert one.sd < 0.75 * alone.sd
    assert two.sd <= one.sd * 1.02
    assert not alone.informed
    # the constants of the cells are not known either, so that one image does not separate binding
    assert "k_on_DNA" not in one.informed
    assert found.remaining.sd == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
def test_the_table_states_the_reduction_by_each_image(found: MinimalImaging) -> None:
    text = format_minimal_imaging(found)
    assert "before the dose alone" in text
    assert f"{found.stages[-1].sd:.3f}" in text
    assert "less than before the dose alone" in describe_minimal_imaging(found)


def test_an_outcome_without_variance_is_refused(study: Path) -> None:
    with pytest.raises(InputError, match="no post-dose"):
        outcome_uncertainty_by_images(
            inputs(study), FitSettings(device="cpu"), ARMS, passage, name="passage"
        )
    with pytest.raises(InputError, match="oo few draws"):
        outcome_uncertainty_by_images(
            inputs(study), settings(study), ARMS, passage, name="passage", draws=3
        )
    with pytest.raises(InputError, match="neural"):
        outcome_uncertainty_by_images(
            inputs(study), settings(study, field=("release:neural",)), ARMS, passage, name="passage"
        )
