"""The real tumour of the Madym data: medians as its README found them independently."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nanopinn.imaging.maps import ImagingInputs, make_maps

pytestmark = pytest.mark.public_data


def test_the_real_tumour_has_the_t1_and_ktrans_that_others_found(public_data: Path) -> None:
    d = public_data / "madym_tumour"
    vfa = tuple(d / f"vfa_fa{a}.nii.gz" for a in ("02", "10", "20"))
    inputs = ImagingInputs(
        dce=d / "dce.nii.gz", mask=d / "tumour_mask.nii.gz", vfa=vfa, assume_ph=7.0, overrides={"ContrastRelaxivity": 3.4}
    )
    maps = make_maps(inputs)
    assert np.nanmedian(maps.t1_s[maps.mask]) == pytest.approx(0.87, abs=0.03)
    assert np.nanmedian(maps.ktrans_per_min[maps.mask]) == pytest.approx(0.28, abs=0.04)
    assert maps.valid_share >= 0.95
