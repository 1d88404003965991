"""What a fit asks of the treatment, before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nanopinn.errors import InputError
from nanopinn.imaging.imaging_data import ImagingInputs
from nanopinn.settings import ComparisonSettings, FitSettings
from nanopinn.studies.arms.arm_specs import arms_from_settings
from nanopinn.studies.fit import run_fit
from nanopinn.studies.minimal_imaging import arm_settings_of_study
from nanopinn.studies.pose_study import inputs_of_study, list_study_files, treatment_of_study
from nanopinn.studies.treatment_source import settings_to_write

INPUTS = ImagingInputs(dce="dce.nii.gz")
MOUSE: dict[str, Any] = {"formulation": "pld", "drug_dose": "5mg/kg", "species": "mouse"}


def image(folder: Path, **facts: Any) -> str:
    side = {"TimeAfterDose": 3600.0, "Quantity": "total", "NoiseSD": 0.1, "Units": "ug/mL", **facts}
    (folder / "drug.json").write_text(json.dumps(side))
    return str(folder / "drug.nii.gz")


@pytest.mark.parametrize("missing", ["formulation", "drug_dose"])
def test_a_fit_of_drug_images_asks_for_formulation_and_dose_first(
    tmp_path: Path, missing: str
) -> None:
    given = {n: v for n, v in MOUSE.items() if n != missing}
    with pytest.raises(InputError, match=missing) as refused:  # no file of the scan exists
        run_fit(INPUTS, FitSettings(**given, drug=(image(tmp_path),)))
    assert refused.value.exit_code == 3


def test_without_drug_images_a_species_alone_is_enough() -> None:
    found = inputs_of_study(INPUTS, FitSettings(species="mouse"))
    assert found.aif_source == "preclinical"
    assert inputs_of_study(INPUTS, FitSettings()) == INPUTS


def test_files_of_the_treatment_are_read_and_recorded_by_name(tmp_path: Path) -> None:
    (tmp_path / "plasma.tsv").write_text("time_h\ttotal_plasma_ug/mL\n0.25\t100\n24\t30\n48\t10\n")
    (tmp_path / "s.toml").write_text(
        '[subject]\nspecies = "mouse"\nplasma = "plasma.tsv"\n[[dose]]\nformulation = "pld"\n'
        "start_h = 0\nmg_per_kg = 5\n[run]\nend_h = 24\n"
    )
    settings = FitSettings(schedule=tmp_path / "s.toml", drug=(image(tmp_path),))
    assert list_study_files(INPUTS, settings) == [
        tmp_path / "drug.nii.gz",
        tmp_path / "s.toml",
        tmp_path / "plasma.tsv",
    ]
    assert settings_to_write(settings)["schedule"] == "s.toml"
    own = FitSettings(**{**MOUSE, "formulation": str(tmp_path / "own.toml")})
    assert settings_to_write(own)["formulation"] == "own.toml"


def test_arms_of_minimal_imaging_have_the_subject_and_the_dose_of_the_study(
    tmp_path: Path,
) -> None:
    fits = FitSettings(drug=(image(tmp_path, Formulation="pld", DrugDose="5mg/kg", Species="rat"),))
    settings, said = arm_settings_of_study(ComparisonSettings(arms=("tsl",)), INPUTS, fits)
    (arm,), _ = arms_from_settings(settings)
    treatment = treatment_of_study(INPUTS, fits)
    assert treatment is not None
    assert arm.treatment.subject == treatment.subject
    assert arm.treatment.doses[0].dose == treatment.doses[0].dose
    assert any("rat" in s for s in said)
