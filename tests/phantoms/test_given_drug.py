"""Phantoms of several formulations: what their sidecars state, and the drug in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanopinn.errors import InputError
from nanopinn.inference.drug_setup import set_up_drug
from nanopinn.parameters import default_scalars
from nanopinn.phantoms.scan_simulation import sidecar_facts
from nanopinn.phantoms.synthetic_study import simulate_study
from nanopinn.phantoms.truth import heat_tumour, scalars_of_formulation
from nanopinn.settings import PhantomSettings, StudySettings
from nanopinn.studies.treatment_source import example_settings, study_treatment

MOUSE = {"formulation": "pld", "drug_dose": "5mg/kg", "species": "mouse"}
HEAT = """[subject]
species = "mouse"
[[dose]]
formulation = "tsl"
start_h = 0.5
mg_per_kg = 5
[[heat]]
start_h = 0.75
minutes = 20
temperature_C = 42
[run]
end_h = 2
"""


@pytest.mark.parametrize("given", [{}, MOUSE, {**MOUSE, "body_weight_kg": 0.021}])
def test_sidecars_of_a_phantom_state_its_treatment(given: dict[str, Any]) -> None:
    settings = PhantomSettings(**given)
    treatment = study_treatment(example_settings(settings), (), 3600.0)
    assert treatment is not None
    facts = {"Units": "ug/mL", **sidecar_facts(settings, treatment)}
    assert study_treatment(StudySettings(), [facts], 3600.0) == treatment


def test_quantities_that_a_formulation_states_are_the_medians_of_its_phantoms() -> None:
    scalars = default_scalars()
    for name in ("ph", "pld", "tsl", "free"):
        given = study_treatment(StudySettings(**{**MOUSE, "formulation": name}), (), 3600.0)
        unknowns = set_up_drug(given, with_images=False).unknowns
        found = scalars_of_formulation(scalars, unknowns, seed=1)
        for u in unknowns.items:
            spread = 1.5 if u.name in ("leak_factor", "P_f_factor") else 1e-9
            assert abs(np.log(found[u.name] / u.prior_median)) <= spread


def test_a_phantom_is_heated_uniformly_and_to_imposed_temperatures_alone(tmp_path: Path) -> None:
    where = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    (tmp_path / "s.toml").write_text(HEAT)
    settings = StudySettings(schedule=tmp_path / "s.toml")
    course = set_up_drug(study_treatment(settings, (), 3600.0), with_images=False).course
    assert course is not None
    temperature = heat_tumour(course, where).temperature
    assert temperature is not None
    hot, cold = temperature(0.25 * 3600 + 600.0)[0, 0].tolist()  # after the first dose
    assert hot == pytest.approx(315.15)
    assert cold < 311
    (tmp_path / "s.toml").write_text(HEAT.replace("minutes", 'mode = "pennes"\nminutes'))
    course = set_up_drug(study_treatment(settings, (), 3600.0), with_images=False).course
    assert course is not None
    with pytest.raises(InputError, match="pennes"):
        heat_tumour(course, where)


def test_heat_releases_in_the_phantom_and_free_drug_is_not_encapsulated(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(HEAT)
    small: dict[str, Any] = {
        "shape": (8, 8, 6),
        "frames": 12,
        "refine": 2,
        "length_scale_mm": 0.5,
        "drug_times_h": (0.2, 1.0),
    }
    heated = simulate_study(PhantomSettings(**small, schedule=tmp_path / "s.toml"))
    before, after = (
        float(np.asarray(heated.images[f"drug_released_{t}h"]).max()) for t in ("0.2", "1")
    )
    assert after > 10 * before
    free = simulate_study(PhantomSettings(**{**small, **MOUSE, "formulation": "free"}))
    assert [n for n in free.images if n.startswith("drug")] == [
        "drug_released_0.2h",
        "drug_released_1h",
    ]
    assert free.images["drug_released_1h"].meta["Species"] == "mouse"
