"""Masks, pH maps, drug images and T1 that cannot be used: each refused by file, field, value and
remedy.
"""

from __future__ import annotations

import numpy as np
import pytest

from nanopinn.errors import InputError
from nanopinn.imaging.drug_image import load_drug_image
from nanopinn.imaging.imaging_data import ImagingInputs
from nanopinn.imaging.pipeline import make_maps

from .conftest import Study, oblique, save

pytestmark = pytest.mark.dce

FAR = oblique((1.0, 1.2, 2.0), (500.0, 500.0, 500.0))
GOOD = {"TimeAfterDose": 7200.0, "Quantity": "total", "NoiseSD": 0.1, "Units": "ug/mL"}


def refused(study: Study, word: str, **change: object) -> InputError:
    with pytest.raises(InputError, match=word) as caught:
        make_maps(ImagingInputs(**study.given(**change)))
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    return caught.value


def test_a_mask_or_ph_map_elsewhere_is_refused(own_study: Study) -> None:
    elsewhere = save(own_study.folder / "far.nii.gz", np.full((6, 6, 4), 6.9), FAR)
    assert refused(own_study, "does not overlap", cest=elsewhere).file == "far.nii.gz"
    assert refused(own_study, "does not overlap", mask=elsewhere).file == "far.nii.gz"


@pytest.mark.parametrize(
    ("values", "word"),
    [(np.full((6, 6, 4), 0.03), "not pH values"), (np.zeros((6, 6, 4)), "holds no value")],
)
def test_a_map_that_is_not_ph_is_refused(own_study: Study, values: np.ndarray, word: str) -> None:
    refused(own_study, word, cest=save(own_study.folder / "ratio.nii.gz", values, own_study.affine))


def test_wrong_dimensions_are_refused(own_study: Study) -> None:
    flat = save(
        own_study.folder / "flat.nii.gz", np.ones((12, 11, 6)), own_study.affine, own_study.side()
    )
    deep = save(own_study.folder / "deep.nii.gz", np.ones((12, 11, 6, 4)), own_study.affine)
    assert refused(own_study, "wrong dimensions", dce=flat).found == "12x11x6"
    refused(own_study, "wrong dimensions", mask=deep)
    refused(own_study, "no offsets", cest=deep)
    refused(own_study, "wrong dimensions", vfa=(own_study.vfa[0], deep))


def test_t1_must_be_given_once_and_in_seconds(own_study: Study) -> None:
    refused(own_study, "not known", vfa=())
    refused(own_study, "given twice", t1=1.4)
    refused(own_study, "1 file|one flip", vfa=own_study.vfa[:1])
    refused(own_study, "T1", vfa=(), t1=1400.0)
    refused(
        own_study,
        "seconds",
        vfa=(),
        t1=save(own_study.folder / "ms.nii.gz", np.full((12, 11, 6), 1400.0), own_study.affine),
    )


def test_without_a_ph_the_arguments_are_named(own_study: Study) -> None:
    assert "`assume_ph`" in str(refused(own_study, "no pH|No pH", cest=None))
    refused(own_study, "not an extracellular pH|Not an extracellular pH", cest=None, assume_ph=12.0)
    assert np.isnan(
        make_maps(ImagingInputs(**own_study.given(cest=None)), require_ph=False).ph
    ).all()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"Units": "mol"}, "Units"),
        ({"Units": None}, "Units"),
        ({"Quantity": "liposomes"}, "Quantity"),
        ({"TimeAfterDose": -5}, "TimeAfterDose"),
        ({"TimeAfterDose": "2 h"}, "TimeAfterDose"),
        ({"NoiseSD": 0}, "NoiseSD"),
    ],
)
def test_a_drug_image_without_unit_time_or_noise_is_refused(
    own_study: Study, change: dict, field: str
) -> None:
    path = save(
        own_study.folder / "drug.nii.gz", np.ones((12, 11, 6)), own_study.affine, {**GOOD, **change}
    )
    with pytest.raises(InputError) as caught:
        load_drug_image(path, (12, 11, 6), own_study.affine, own_study.mask)
    assert caught.value.field == field


def test_units_of_drug_images_become_si(own_study: Study) -> None:
    path = save(
        own_study.folder / "drug.nii.gz",
        np.ones((12, 11, 6)),
        own_study.affine,
        {**GOOD, "Units": "ng/mL"},
    )
    image = load_drug_image(path, (12, 11, 6), own_study.affine, own_study.mask)
    np.testing.assert_allclose(image.values, 1e-6)
    assert image.noise_sd == pytest.approx(1e-7)


def test_a_mask_of_one_voxel_is_a_tumour_of_one_voxel(own_study: Study) -> None:
    one = np.zeros(own_study.mask.shape)
    one[5, 5, 2] = 1
    path = save(own_study.folder / "one.nii.gz", one, own_study.affine)
    maps = make_maps(ImagingInputs(**own_study.given(mask=path, cest=None)), require_ph=False)
    assert maps.mask.sum() == 1
    assert maps.ktrans_per_min[5, 5, 2] == pytest.approx(own_study.Ktrans[5, 5, 2], rel=0.02)


def test_a_tumour_without_enhancement_is_flagged_and_reported(own_study: Study) -> None:
    outside = ~own_study.mask
    path = save(own_study.folder / "outside.nii.gz", outside, own_study.affine)
    maps = make_maps(ImagingInputs(**own_study.given(mask=path, cest=None)), require_ph=False)
    assert maps.valid_fraction == 0.0
    assert np.isnan(maps.ktrans_per_min[outside]).all()
    assert any("No tumour voxel enhances" in a for a in maps.assumptions)


@pytest.mark.parametrize("flip", [0.0, -15.0])
def test_a_flip_angle_of_zero_or_less_is_refused(study: Study, flip: float) -> None:
    with pytest.raises(InputError) as caught:
        make_maps(ImagingInputs(**study.given(overrides={"FlipAngle": flip})))
    assert caught.value.field == "FlipAngle"


def test_a_t1_of_zero_is_refused(own_study: Study) -> None:
    for T1 in (
        0.0,
        save(
            own_study.folder / "t1.nii.gz", np.zeros(own_study.mask.shape) + 1e-12, own_study.affine
        ),
    ):
        with pytest.raises(InputError, match=r"[Nn]ot a T1"):
            make_maps(ImagingInputs(**own_study.given(vfa=(), t1=T1)))
