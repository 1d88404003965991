"""Arterial inputs measured in the scan, by detection or from a mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nanopinn.errors import InputError
from nanopinn.imaging.dce.aif_population import parker
from nanopinn.imaging.imaging_data import ImagingInputs, ImagingMaps
from nanopinn.imaging.pipeline import make_maps

from ..conftest import (
    BOLUS_S,
    FLIP_DEG,
    HCT,
    RELAXIVITY,
    Study,
    build_study,
    save,
    spoiled_gradient_echo,
)

pytestmark = pytest.mark.dce
DOSE, BLOOD_T1_S = 0.7, 1.65
VESSEL = (slice(0, 2), slice(0, 2), slice(1, 5))


@pytest.fixture(scope="module")
def with_vessel(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The small study at 0.7 of Parker's dose, with a vessel of 16 voxels, and noise; frames of 2 s
    in place of 7.
    """
    import nibabel as nib

    study = build_study(tmp_path_factory.mktemp("vessel"), scale=DOSE, spacing_s=2.0, frames=140)
    image = nib.load(study.dce)
    data = np.asarray(image.dataobj, dtype=np.float64)
    blood = DOSE * parker(study.frame_times - BOLUS_S)
    data[VESSEL] = spoiled_gradient_echo(1 / BLOOD_T1_S + RELAXIVITY * blood, FLIP_DEG)
    data += 0.3 * np.random.default_rng(7).standard_normal(data.shape)
    save(study.dce, data, study.affine, study.side())
    return study


def maps_with(study: Study, aif: str) -> ImagingMaps:
    return make_maps(ImagingInputs(**study.given(aif=aif)))


def bias(maps: ImagingMaps, study: Study) -> float:
    return float(np.median(maps.ktrans_per_min[study.mask] / study.Ktrans[study.mask]) - 1)


def test_a_detected_vessel_gives_the_ktrans_that_a_population_curve_misses(
    with_vessel: Study,
) -> None:
    maps = maps_with(with_vessel, "auto")
    assert maps.arterial_voxels is not None
    inside = np.zeros(with_vessel.mask.shape, dtype=bool)
    inside[VESSEL] = True
    assert maps.arterial_voxels.mask.any()
    assert not (maps.arterial_voxels.mask & ~inside).any()
    assert abs(bias(maps, with_vessel)) < 0.02
    assert bias(maps_with(with_vessel, "parker"), with_vessel) < -0.2  # 0.7 of the dose was given
    assert maps.arterial_voxels.auc_to_parker_ratio == pytest.approx(DOSE, rel=0.05)
    assert maps.arterial_voxels.peak_to_noise > 20


def test_the_dose_scales_a_population_curve(with_vessel: Study) -> None:
    maps = make_maps(ImagingInputs(**with_vessel.given(overrides={"ContrastDose": 0.1 * DOSE})))
    assert abs(bias(maps, with_vessel)) < 0.02


def test_an_arterial_mask_gives_the_same_as_detection(with_vessel: Study, tmp_path: Path) -> None:
    drawn = np.zeros(with_vessel.mask.shape)
    drawn[VESSEL] = 1
    path = save(tmp_path / "artery.nii.gz", drawn, with_vessel.affine)
    maps = maps_with(with_vessel, f"mask:{path}")
    assert maps.arterial_voxels is not None
    assert int(maps.arterial_voxels.mask.sum()) == 16
    assert abs(bias(maps, with_vessel)) < 0.02
    np.testing.assert_allclose(
        maps.arterial_voxels.blood_mM.max(), DOSE * parker(np.arange(0, 30, 0.1)).max(), rtol=0.03
    )
    assert any("given by a mask" in a for a in maps.assumptions)
    assert path in ImagingInputs(**with_vessel.given(aif=f"mask:{path}")).files()


def test_measured_plasma_is_blood_over_one_minus_hematocrit(with_vessel: Study) -> None:
    maps = maps_with(with_vessel, "auto")
    assert maps.arterial_voxels is not None
    np.testing.assert_allclose(
        maps.aif.plasma_mM, maps.arterial_voxels.blood_mM / (1 - HCT), rtol=1e-12
    )


def test_no_artery_is_detected_without_a_bolus(own_study: Study) -> None:
    side = own_study.side()
    rng = np.random.default_rng(0)
    data = 100 + rng.standard_normal((*own_study.mask.shape, 40))
    data[own_study.mask, 10:] += 2.0
    save(own_study.dce, data, own_study.affine, side)
    with pytest.raises(InputError, match="artery was detected") as caught:
        make_maps(ImagingInputs(**own_study.given(aif="auto", overrides={"BaselineFrames": 6})))
    assert "mask:FILE" in str(caught.value)


def test_an_unknown_arterial_input_is_refused_with_the_known_ones(study: Study) -> None:
    with pytest.raises(InputError) as caught:
        make_maps(ImagingInputs(**study.given(aif="parkr")))
    for word in ("parkr", "georgiou", "auto", "mask:FILE"):
        assert word in str(caught.value)
