"""The fit of `make demo`: the sample study, whose truth was solved on a threefold finer grid by
another scheme.
"""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nanopinn import FitSettings, ImagingInputs, run_fit
from nanopinn.studies.fit import FittedStudy

SAMPLE = Path(__file__).resolve().parents[2] / "sample_data"
TRUTH = json.loads((SAMPLE / "truth" / "parameters.json").read_text())["scalars_SI"]
PER_SI = {"l": 1e3, "q": 3600.0, "PS_l": 3600.0, "krel_ref": 3600.0, "p_e": 1 / 133.322}


@pytest.fixture(scope="module")
def study() -> FittedStudy:
    inputs = ImagingInputs(
        dce=SAMPLE / "dce.nii.gz",
        cest=SAMPLE / "ph.nii.gz",
        mask=SAMPLE / "mask.nii.gz",
        vfa=tuple(sorted(SAMPLE.glob("vfa_*.nii.gz"))),
    )
    return run_fit(
        inputs, FitSettings(drug=tuple(str(p) for p in sorted(SAMPLE.glob("drug_*.nii.gz"))))
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["l", "PS_l", "krel_ref"])
def test_informed_parameters_are_recovered(study: FittedStudy, name: str) -> None:
    s = study.fit[name]
    error = np.log(s.median / (TRUTH[name] * PER_SI[name]))
    assert abs(error) < 2 * s.sd
    assert abs(np.expm1(error)) < 0.25
    assert s.informed


def test_the_driving_pressure_keeps_its_prior(study: FittedStudy) -> None:
    p_e = study.fit["p_e"]
    assert p_e.contraction == pytest.approx(0, abs=1e-6)
    assert p_e.median == pytest.approx(p_e.prior_median, rel=1e-6)


def test_pressure_is_recovered_up_to_its_scale(study: FittedStudy) -> None:
    inside = study.fit.mask
    true = np.asarray(nib.load(SAMPLE / "truth" / "IFP.nii.gz").dataobj)[inside]
    ifp = study.fit.maps["IFP"]
    found = ifp.values[inside] * TRUTH["p_e"] * PER_SI["p_e"] / study.fit["p_e"].median
    assert np.linalg.norm(found - true) / np.linalg.norm(true) < 0.15
    # the prior on p_e, 35 %, is in every voxel's uncertainty
    assert ifp.std is not None
    assert (ifp.std[inside] > 0.3 * ifp.values[inside]).mean() > 0.95


def test_the_check_passes(study: FittedStudy) -> None:
    assert study.fit.check.passed, study.fit.check.headline
