"""Studies that an independent code made, with their truth, and the same with another dose.

The studies and their description lie in ``shared/data/independent_phantoms``.
"""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nanopinn import FitSettings, ImagingInputs, run_fit
from nanopinn.errors import InputError
from nanopinn.studies.fit import FittedStudy

GIVEN = {"formulation": "ph", "drug_dose": "90 mg", "species": "human"}
#: Plasma of the mouse of the study, as its description states it.
MOUSE_CARRIER = """
name = "ph-mouse"
description = "pH-sensitive liposome in the mouse of the study"
diameter = "d_PLD"
leak = "krel0_pH"
permeability = "PS_l"
transmission = "leak_l"
retardation = "f_l"
diffusion = "D_l_t"
decay = "k_d_lip"
[circulation]
volume = {value = 1e-6, unit = "m**3", source = "description of the study"}
rates = ["k_PLD_1", {value = 9.6e-6, unit = "1/s", source = "description of the study"}]
shares = [{value = 0.1, unit = "1", source = "description of the study"}]
[acid]
k_ref = "krel_ref"
pK = "pK_rel"
n = "n_rel"
pH_ref = "pH_ref"
[free_drug]
clearance = {value = 1e-8, unit = "m**3/s", source = "description of the study"}
amplitudes = ["A_dox", "B_dox"]
rates = ["alpha_dox", "beta_dox", "gamma_dox"]
"""


def fit(folder: Path, **given: object) -> FittedStudy:
    inputs = ImagingInputs(
        dce=folder / "dce.nii.gz",
        cest=folder / "ph.nii.gz",
        mask=folder / "mask.nii.gz",
        vfa=tuple(sorted(folder.glob("vfa_*.nii.gz"))),
        aif="parker",
    )
    drug = tuple(str(p) for p in sorted(folder.glob("drug_*.nii.gz")))
    return run_fit(inputs, FitSettings(preset="fast", drug=drug, **given))


def multiplied(folder: Path, factor: float, into: Path, unit: str = "ug/mL") -> Path:
    """A copy of a study with its drug images and their noise multiplied."""
    into.mkdir()
    for file in folder.iterdir():
        if file.is_file() and not file.name.startswith("drug_"):
            (into / file.name).symlink_to(file)
    for image in folder.glob("drug_*.nii.gz"):
        volume = nib.load(image)
        scaled = np.asarray(volume.dataobj, dtype=np.float32) * factor
        nib.save(nib.Nifti1Image(scaled, volume.affine), into / image.name)
        name = image.name.replace(".nii.gz", ".json")
        side = json.loads((folder / name).read_text())
        side |= {"NoiseSD": side["NoiseSD"] * factor, "Units": unit}
        (into / name).write_text(json.dumps(side))
    return into


def distance_from_truth(study: FittedStudy, folder: Path) -> dict[str, float]:
    """Distance of every informed value from the truth, in posterior sd."""
    truth = json.loads((folder / "truth" / "scalars.json").read_text())["th"]
    per_unit = {"l": 1e3, "q": 3600.0, "PS_l": 3600.0, "krel_ref": 3600.0, "k_on_DNA": 3600.0}
    found = {}
    for s in study.fit.scalars:
        if s.informed:
            true = truth[s.name] * per_unit.get(s.name, 1.0)
            error = np.log(s.median / true) if s.scale == "log" else s.median - true
            found[s.name] = float(error) / s.sd
    return found


@pytest.fixture(scope="module")
def control(public_data: Path) -> Path:
    return public_data / "independent_phantoms" / "control"


@pytest.fixture(scope="module")
def plain(control: Path) -> FittedStudy:
    return fit(control, **GIVEN)


@pytest.mark.public_data
@pytest.mark.timeout(600)
def test_informed_values_of_an_independent_code_are_found(control: Path, plain) -> None:
    """Two posterior sd is the stated target of these studies."""
    distances = distance_from_truth(plain, control)
    assert "krel_ref" in distances
    assert max(abs(z) for z in distances.values()) < 2, distances


@pytest.mark.public_data
@pytest.mark.timeout(600)
def test_a_stated_mouse_dose_and_plasma_fit_as_well(public_data: Path, tmp_path: Path) -> None:
    folder = public_data / "independent_phantoms" / "mouse_dose"
    carrier = tmp_path / "carrier.toml"
    carrier.write_text(MOUSE_CARRIER)
    study = fit(folder, formulation=str(carrier), drug_dose="0.1 mg", species="mouse")
    distances = distance_from_truth(study, folder)
    assert {"l", "PS_l", "krel_ref"} <= set(distances)
    assert max(abs(z) for z in distances.values()) < 2, distances


@pytest.mark.public_data
@pytest.mark.timeout(600)
def test_twelve_times_the_drug_with_its_dose_gives_the_same_scalars(
    control: Path, plain, tmp_path: Path
) -> None:
    dose = GIVEN | {"drug_dose": "1080 mg"}
    study = fit(multiplied(control, 12.0, tmp_path / "x12"), **dose)
    for s in study.fit.scalars:
        was = plain.fit[s.name]
        moved = np.log(s.median / was.median) if s.scale == "log" else s.median - was.median
        assert abs(moved) < 0.1 * was.sd, s.name


@pytest.mark.public_data
@pytest.mark.timeout(600)
def test_a_dose_wrong_by_four_fails_the_check(control: Path, tmp_path: Path) -> None:
    study = fit(multiplied(control, 4.0, tmp_path / "x4"), **GIVEN)
    failed = [i.name for i in study.fit.check.items if not i.passed]
    assert "stated dose against data, predictive sd" in failed
    assert any(s.flagged for s in study.fit.prior_shifts)


@pytest.mark.public_data
def test_drug_images_without_their_dose_are_refused(control: Path) -> None:
    with pytest.raises(InputError, match="drug dose of the drug images is not stated"):
        fit(control, formulation="ph", species="human")
