"""Arms of a comparison: equal doses, heating of sensitive formulations, options and schedules,
refusals.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanopinn.errors import InputError
from nanopinn.physics.species import describe_subject
from nanopinn.settings import DoseAmount, FractionSpec, HeatingSpec
from nanopinn.studies.arms.arm_specs import Arm, build_arms
from tests.variants import for_each

EXAMPLES = Path(__file__).resolve().parents[2] / "docs"
HEAT = [HeatingSpec(temperature_C=42, minutes=60)]
RADIATION = [FractionSpec(dose_Gy=5, time_h=24)]


def by_name(arms: tuple[Arm, ...]) -> dict[str, Arm]:
    return {a.name: a for a in arms}


def test_arms_are_dose_matched_and_differ_in_the_formulation() -> None:
    arms, said = build_arms(["free", "pld", "tsl", "ph"], heat=HEAT, radiation=RADIATION)
    assert [a.name for a in arms] == ["free", "pld", "tsl", "ph"]
    for a in arms:
        (given,) = a.treatment.doses
        assert given.formulation.short_name == a.name
        assert (given.dose.start_s, given.dose.infusion_s) == (0.0, 0.0)
        assert given.dose.amount_kg == pytest.approx(50e-6 * describe_subject().surface_m2)
        assert a.treatment.radiation.events() == (86400.0,)
        assert a.treatment.images_s == (3600.0, 14400.0, 86400.0, 172800.0, 259200.0)
    assert any("same doxorubicin: 88.7 mg at 0 h as a bolus" in s for s in said)
    assert any("1.77 m2" in s and "(assumed)" in s for s in said)


def test_only_heat_sensitive_arms_are_heated_and_this_is_stated() -> None:
    arms, said = build_arms(["free", "tsl"], heat=HEAT)
    found = by_name(arms)
    assert found["free"].treatment.heatings == ()
    (heat,) = found["tsl"].treatment.heatings
    assert (heat.start_s, heat.end_s, heat.ramp_s, heat.temperature_K) == (
        0.0,
        3600.0,
        0.0,
        pytest.approx(315.15),
    )
    assert any("given to tsl only" in s and "not to free" in s for s in said)
    assert any("driving pressure" in s for s in said)
    every, _ = build_arms(["free", "tsl"], heat=HEAT, heat_all=True)
    assert all(a.treatment.heatings for a in every)


def test_effects_of_heat_can_be_left_out() -> None:
    (arm,), said = build_arms(["tsl"], heat=HEAT, heat_effects=False)
    assert arm.treatment.factors(7200.0) == {}
    assert any("left out." in s for s in said)
    (mild,), said = build_arms(["tsl"], heat=[HeatingSpec(temperature_C=38.5, minutes=60)])
    assert mild.treatment.factors(7200.0) == {}
    assert any("left out below 39 C" in s for s in said)


def test_options_and_a_schedule_give_the_same_arms(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(
        '[subject]\nspecies = "human"\n'
        '[[dose]]\nformulation = "free"\nstart_h = 0\namount_mg = 90\ninfusion_min = 30\n'
        "[[heat]]\nstart_h = 0.5\nminutes = 60\nramp_min = 5\ntemperature_C = 42\n"
        "[[radiation]]\ntime_h = 24\ndose_Gy = 5\n[[radiation]]\ntime_h = 48\ndose_Gy = 2\n"
        "[imaging]\ntimes_h = [1, 4, 24, 48, 72]\n[run]\nend_h = 72\n"
    )
    of_file, said = build_arms(["free", "tsl"], schedule=tmp_path / "plan.toml")
    of_options, _ = build_arms(
        ["free", "tsl"],
        dose=DoseAmount(amount_mg=90),
        infusion_min=30,
        heat=[HeatingSpec(temperature_C=42, minutes=60, start_h=0.5, ramp_min=5)],
        radiation=[*RADIATION, FractionSpec(dose_Gy=2, time_h=48)],
    )
    assert of_file == of_options
    assert any("plan.toml" in s and "replaced" in s for s in said)


def test_the_formulation_of_a_schedule_is_replaced_and_its_doses_are_used() -> None:
    arms, _ = build_arms(["pld", "ph"], schedule=EXAMPLES / "schedules" / "ph_liposome.toml")
    for a in arms:
        assert [g.formulation.short_name for g in a.treatment.doses] == [a.name, a.name]
        assert sum(g.dose.amount_kg for g in a.treatment.doses) == pytest.approx(90e-6)
        assert a.treatment.end_s == 72 * 3600.0


def test_a_user_formulation_can_be_an_arm() -> None:
    arms, said = build_arms(["tsl", str(EXAMPLES / "formulations" / "polymer_tsl.toml")], heat=HEAT)
    assert arms[1].name == "polymer-tsl"
    assert arms[1].treatment.heatings
    assert any("described by polymer_tsl.toml" in s for s in said)


def test_a_body_surface_may_be_given() -> None:
    (arm,), said = build_arms(["free"], dose=DoseAmount(mg_per_m2=50), body_surface_m2=2.0)
    assert arm.treatment.doses[0].dose.amount_kg == pytest.approx(100e-6)
    assert not any("assumed" in s for s in said)


def test_default_imaging_times_end_with_the_simulation() -> None:
    (arm,), _ = build_arms(["free"], end_h=6.0)
    assert arm.treatment.images_s == (3600.0, 14400.0)


def test_the_duration_of_thermometry_is_that_of_its_sidecar(tmp_path: Path) -> None:
    (tmp_path / "T.nii.gz").write_bytes(b"")
    (tmp_path / "T.json").write_text(
        json.dumps({"VolumeTiming": [0.0, 600.0, 1800.0], "Unit": "C"})
    )
    (arm,), _ = build_arms(["tsl"], heat=[HeatingSpec(file=tmp_path / "T.nii.gz", start_h=0.25)])
    (heat,) = arm.treatment.heatings
    assert (heat.start_s, heat.end_s, heat.file) == (900.0, 2700.0, tmp_path / "T.nii.gz")
    (tmp_path / "T.json").unlink()
    with pytest.raises(InputError, match="VolumeTiming"):
        build_arms(["tsl"], heat=[HeatingSpec(file=tmp_path / "T.nii.gz")])


def test_heat_above_45_degrees_gives_a_warning() -> None:
    _, said = build_arms(["tsl"], heat=[HeatingSpec(temperature_C=46, minutes=20)])
    assert any(
        s.startswith("Warning: 46 C") and "perfusion of tumours shuts down" in s for s in said
    )


def heating(temperature_C: float, minutes: float, **given: float) -> HeatingSpec:
    return HeatingSpec(temperature_C=temperature_C, minutes=minutes, **given)


@for_each(
    "given, words",
    [
        ({"names": []}, ["no arm", "arms"]),
        ({"names": ["tsl", "doxil"]}, ["arms", "doxil", "pegylated (pld)", ".toml"]),
        ({"names": ["tsl", "thermosensitive"]}, ["twice", "thermosensitive"]),
        ({"dose": DoseAmount(amount_mg=50000)}, ["50000 mg", "are usual", "unit"]),
        ({"dose": DoseAmount(mg_per_m2=0.05)}, ["0.05 mg/m2", "are usual"]),
        ({"dose": DoseAmount(amount_mg=-50)}, ["amount_mg", "-50"]),
        ({"dose": DoseAmount()}, ["amount_mg", "either"]),
        ({"heat": [heating(70, 60)]}, ["temperature_C", "70", "60"]),
        ({"heat": [heating(42, 0)]}, ["minutes", "0"]),
        ({"heat": [HeatingSpec(temperature_C=42)]}, ["minutes", "missing"]),
        ({"heat": [heating(42, 60, ramp_min=61)]}, ["ramp_min", "60"]),
        ({"heat": [heating(42, 60), heating(43, 30, start_h=0.5)]}, ["overlap"]),
        ({"heat": [HeatingSpec(file=Path("none.nii.gz"))]}, ["none.nii.gz", "heat"]),
        ({"heat": HEAT, "names": ["free", "pld"]}, ["heat", "free, pld", "`heat_all`"]),
        ({"heat": [heating(42, 60, start_h=72)]}, ["run.end_h", "at least 73"]),
        ({"radiation": [FractionSpec(dose_Gy=5, time_h=96)]}, ["run.end_h", "at least 96"]),
        ({"radiation": [FractionSpec(dose_Gy=0, time_h=24)]}, ["dose_Gy"]),
        ({"imaging_h": [96.0]}, ["run.end_h", "at least 96"]),
        ({"infusion_min": -1.0}, ["infusion_min", "-1"]),
        ({"body_surface_m2": 0.0}, ["body_surface_m2"]),
        (
            {"schedule": EXAMPLES / "schedules" / "free_bolus.toml", "radiation": RADIATION},
            ["radiation", "twice"],
        ),
        ({"schedule": EXAMPLES / "none.toml"}, ["none.toml"]),
        (
            {"schedule": EXAMPLES / "schedules" / "thermosensitive.toml", "names": ["free"]},
            ["responds to the heat", "free"],
        ),
    ],
)
def test_a_mistake_is_refused_by_name(given: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        build_arms(**{"names": ["tsl"], **given})
    for word in words:
        assert word in str(refused.value), str(refused.value)


def test_a_schedules_dose_passes_the_same_check(tmp_path: Path) -> None:
    text = (EXAMPLES / "schedules" / "free_bolus.toml").read_text()
    (tmp_path / "plan.toml").write_text(text.replace("mg_per_m2 = 50", "mg_per_m2 = 50000"))
    with pytest.raises(InputError, match=r"plan.toml.*50000 mg/m2"):
        build_arms(["free"], schedule=tmp_path / "plan.toml")


def test_the_dose_given_reaches_plasma_in_every_arm() -> None:
    arms, _ = build_arms(["free", "pld", "tsl", "ph"], heat=HEAT)
    areas = {
        a.name: a.treatment.plasma().encapsulated.area() + a.treatment.plasma().free.area()
        for a in arms
    }
    assert np.all(np.isfinite(list(areas.values())))
    assert areas["free"] < areas["tsl"] < areas["pld"]
