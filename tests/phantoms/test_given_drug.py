"""Phantoms of several formulations: what their sidecars state, and the drug in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanopinn.errors import InputError
from nanopinn.inference.drug_setup import set_up_drug
from nanopinn.parameters import PARAMETERS, default_scalars
from nanopinn.phantoms import synthetic_study
from nanopinn.phantoms.sample_studies import SAMPLE_STUDIES
from nanopinn.phantoms.scan_simulation import SyntheticStudy, sidecar_facts
from nanopinn.phantoms.synthetic_study import make_phantom, simulate_study
from nanopinn.phantoms.truth import (
    draw_constants,
    heat_tumour,
    scalars_of_formulation,
    solve_truth,
)
from nanopinn.physics.drug_pools import drug_detail_for
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


SMALL: dict[str, Any] = {"shape": (8, 8, 6), "frames": 12, "refine": 2, "length_scale_mm": 0.5}


def test_two_integrations_of_the_same_pools_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def both(*args: Any, adaptive: bool) -> Any:
        assert adaptive
        course = replace(args[6], options=drug_detail_for(args[6].carrier))
        given_steps = (*args[:6], course, *args[7:])
        found.extend([solve_truth(*args, adaptive=True), solve_truth(*given_steps, adaptive=False)])
        return found[0]

    monkeypatch.setattr(synthetic_study, "solve_truth", both)
    simulate_study(PhantomSettings(**SMALL, **MOUSE, drug_times_h=(1.0,)))
    adaptive, given_steps = found
    assert adaptive.drug.keys() == given_steps.drug.keys()
    for name, values in adaptive.drug.items():
        other = np.nan_to_num(given_steps.drug[name])
        # the error of an adaptive step is below 1e-4 of the pool's mass, and there are about 100
        assert np.abs(np.nan_to_num(values) - other).max() < 0.01 * other.max()


def test_drawn_constants_have_their_distributions() -> None:
    symbols = ("k_PLD_mouse", "V_PLD_mouse", "fb", "tau_c")
    known = {s: d for s in symbols if (d := PARAMETERS[s].distribution()) is not None}
    assert len(known) == len(symbols)
    drawn = [draw_constants(known, seed) for seed in range(1000)]
    for symbol, distribution in known.items():
        values = np.array([d[symbol] for d in drawn])
        for z, share in ((-1.6449, 0.05), (0.0, 0.5), (1.6449, 0.95)):
            below = float((values < distribution.values_at_deviates(np.array(z))).mean())
            assert abs(below - share) < 4 * np.sqrt(share * (1 - share) / len(values))


def test_images_in_arbitrary_units_are_those_in_concentrations_times_the_true_factor() -> None:
    known = simulate_study(PhantomSettings(**SMALL, drug_noise=0.0, drug_times_h=(0.5, 1.0)))
    given = simulate_study(
        PhantomSettings(**SMALL, drug_noise=0.0, drug_times_h=(0.5, 1.0), drug_units="a.u.")
    )
    factors = given.parameters["drug_image_scales"]
    names = [n for n in known.images if n.startswith("drug")]
    assert sorted(factors) == sorted(names)
    assert factors["drug_released_0.5h"] == factors["drug_released_1h"] != 1.0
    for name in names:
        assert given.images[name].meta["Units"] == "a.u."
        expected = factors[name] * np.asarray(known.images[name])
        assert np.asarray(given.images[name]) == pytest.approx(expected, rel=1e-5)


def test_files_that_state_the_treatment_are_beside_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formulation = Path(__file__).parents[2] / "docs" / "formulations" / "mouse_pld.toml"
    (tmp_path / formulation.name).write_bytes(formulation.read_bytes())
    schedule = tmp_path / "s.toml"
    schedule.write_text(
        '[subject]\nspecies = "mouse"\n[run]\nend_h = 2\n'
        f'[[dose]]\nformulation = "{formulation.name}"\nstart_h = 0\nmg_per_kg = 5\n'
    )
    nothing = SyntheticStudy({}, {}, {})
    monkeypatch.setattr(synthetic_study, "simulate_study", lambda *_, **__: nothing)
    settings = PhantomSettings(schedule=schedule)
    made = make_phantom(tmp_path / "study", settings)
    read = study_treatment(StudySettings(schedule=made / "schedule.toml"), (), 0.0)
    given = study_treatment(settings, (), 0.0)
    assert read is not None
    assert given is not None
    assert read.doses[0].formulation.file == made / formulation.name
    assert "Formulation" not in sidecar_facts(settings, given)


def test_sample_studies_state_a_mouse_and_image_before_and_after_heat() -> None:
    docs = Path(__file__).parents[2] / "docs" / "schedules" / "mouse_tsl.toml"
    assert SAMPLE_STUDIES["mouse-tsl"]["schedule"].read_bytes() == docs.read_bytes()
    for name, given in SAMPLE_STUDIES.items():
        settings = PhantomSettings(**given)
        treatment = study_treatment(example_settings(settings), (), 0.0)
        assert treatment is not None
        assert treatment.subject.species.name == "mouse"
        first = min(g.dose.start_s for g in treatment.doses)
        times = [first + 3600 * h for h in settings.drug_times_h]
        for heating in treatment.heatings:
            assert name == "mouse-tsl"
            assert min(times) < heating.start_s < heating.end_s + heating.ramp_s < max(times)
