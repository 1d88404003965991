"""Schedules: the packaged examples, and refusals by the name of the field."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nanopinn.errors import InputError
from nanopinn.physics.formulation_library import FREE, PH_SENSITIVE, THERMOSENSITIVE
from nanopinn.physics.treatment import Treatment
from nanopinn.report.treatment_summary import heat_assumptions
from nanopinn.studies.schedule import read_schedule
from tests.variants import for_each

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "schedules"
DOSE = '[[dose]]\nformulation = "free"\nstart_h = 0\namount_mg = 90\n'
SURFACE = "[patient]\nbody_surface_m2 = 1.8\n"
RUN = "[run]\nend_h = 24\n"
HEAT = "[[heat]]\nstart_h = 1\nminutes = 60\ntemperature_C = 42\n"


def read(tmp_path: Path, text: str) -> Treatment:
    (tmp_path / "plan.toml").write_text(text)
    return read_schedule(tmp_path / "plan.toml")


def test_the_free_drug_arm_is_one_bolus_of_50_mg_per_m2() -> None:
    plan = read_schedule(EXAMPLES / "free_bolus.toml")
    assert plan.carrier is None
    assert plan.doses[0].formulation == FREE.in_subject(plan.subject)
    assert plan.doses[0].dose.amount_kg == pytest.approx(90e-6)
    assert plan.events() == (0.0,)
    assert plan.images_s == (900.0, 3600.0, 14400.0, 86400.0)


def test_the_liposome_arm_is_two_infusions_and_a_fraction() -> None:
    plan = read_schedule(EXAMPLES / "ph_liposome.toml")
    assert plan.carrier == PH_SENSITIVE.in_subject(plan.subject)
    assert plan.events() == (0.0, 3600.0, 7200.0, 86400.0, 90000.0)
    assert plan.radiation.modifiers(90000.0)["P"] > 1
    assert sum(g.dose.amount_kg for g in plan.doses) == pytest.approx(90e-6)


def test_the_thermosensitive_arm_is_an_infusion_under_an_hour_of_heat() -> None:
    plan = read_schedule(EXAMPLES / "thermosensitive.toml")
    assert plan.carrier == THERMOSENSITIVE.in_subject(plan.subject)
    heat = plan.heatings[0]
    assert (heat.start_s, heat.end_s, heat.ramp_s, heat.mode) == (0.0, 3600.0, 300.0, "imposed")
    assert heat.temperature_K == pytest.approx(315.15)
    assert plan.events() == (0.0, 300.0, 900.0, 2700.0, 3600.0, 3900.0)


def test_the_mouse_is_given_5_mg_per_kg_before_its_tumour_is_heated() -> None:
    plan = read_schedule(EXAMPLES / "mouse_tsl.toml")
    assert plan.subject.species.name == "mouse"
    assert plan.doses[0].dose.amount_kg == pytest.approx(5e-6 * plan.subject.weight_kg)
    assert plan.doses[0].dose.start_s < plan.heatings[0].start_s
    assert plan.carrier == THERMOSENSITIVE.in_subject(plan.subject)


def test_radiation_alone_has_no_dose_and_no_drug_in_plasma() -> None:
    plan = read_schedule(EXAMPLES / "radiation_alone.toml")
    assert plan.doses == ()
    assert plan.carrier is None
    assert plan.radiation.fractions
    assert plan.plasma().free.area() == plan.plasma().encapsulated.area() == 0.0


def test_every_example_is_loaded_by_a_test_above() -> None:
    assert {p.name for p in EXAMPLES.glob("*.toml")} == {
        "free_bolus.toml",
        "mouse_tsl.toml",
        "ph_liposome.toml",
        "radiation_alone.toml",
        "thermosensitive.toml",
    }


def test_plasma_is_the_sum_of_all_doses(tmp_path: Path) -> None:
    both = read(
        tmp_path, DOSE + DOSE.replace("free", "pegylated").replace("= 0", "= 2") + RUN
    ).plasma()
    t = torch.tensor([3600.0, 10800.0], dtype=torch.float64)
    alone = read(tmp_path, DOSE + RUN).plasma()
    assert alone.encapsulated(t).tolist() == [0.0, 0.0]
    assert float(both.free(t)[0]) == pytest.approx(float(alone.free(t)[0]), rel=1e-12)
    assert float(both.free(t)[1]) > float(alone.free(t)[1])
    assert both.encapsulated(t).tolist() == pytest.approx(
        [0.0, 90e-6 / 0.0049 * (0.11 * 0.72065 + 0.89 * 0.98489)], rel=1e-4
    )


@pytest.mark.parametrize(
    ("name", "alias"),
    [("free", "Free"), ("pegylated", "pld"), ("pH-sensitive", "ph"), ("thermosensitive", "tsl")],
)
def test_a_formulation_is_found_by_its_name_and_its_alias(
    tmp_path: Path, name: str, alias: str
) -> None:
    long, short = (
        read(tmp_path, DOSE.replace("free", n) + RUN).doses[0].formulation for n in (name, alias)
    )
    assert short == long
    assert long.name == name


def test_a_formulation_file_is_relative_to_the_schedule(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "polymer.toml").write_text(
        (EXAMPLES.parent / "formulations" / "polymer_tsl.toml").read_text()
    )
    twice = DOSE.replace('"free"', '"mine/polymer.toml"') + DOSE.replace(
        '"free"', '"mine/polymer.toml"'
    ).replace("= 0", "= 3")
    plan = read(tmp_path, twice + RUN)
    assert plan.carrier is not None
    assert plan.carrier.name == "polymer-tsl"
    assert plan.files == (tmp_path / "mine" / "polymer.toml",)
    assert len({g.formulation for g in plan.doses}) == 1
    assert plan.plasma().encapsulated.area() == pytest.approx(
        2 * read(tmp_path, DOSE.replace("free", "pld") + RUN).plasma().encapsulated.area()
    )


def test_heat_effects_are_included_unless_the_schedule_omits_them(tmp_path: Path) -> None:
    with_effects, without = (
        read(tmp_path, DOSE + HEAT + RUN + more) for more in ("", "heat_effects = false\n")
    )
    assert with_effects.factors(7200.0)["P_l"] > 2
    assert without.factors(7200.0) == {}
    assert any("pressure" in s and "0.5" in s for s in heat_assumptions(with_effects))
    assert any("left out" in s for s in heat_assumptions(without))


def test_factors_of_heat_and_radiation_multiply_in_draws_too(tmp_path: Path) -> None:
    fraction = "[[radiation]]\ntime_h = 1\ndose_Gy = 5\n"
    both, heat, rays = (
        read(tmp_path, DOSE + what + RUN) for what in (HEAT + fraction, HEAT, fraction)
    )
    drawn = {
        "HT_IFP": torch.tensor([0.4, 0.6]).double(),
        "RT_IFP": torch.tensor([1.2, 0.7]).double(),
    }
    for values in ({}, drawn):
        together, apart = (
            both.with_values(values).factors(36000.0),
            (t.with_values(values).factors(36000.0) for t in (heat, rays)),
        )
        one, other = apart
        assert together["p_e"] == pytest.approx(one["p_e"] * other["p_e"], rel=1e-12)
        assert together["P_l"] == pytest.approx(one["P_l"], rel=1e-12)
        assert together["P"] == pytest.approx(other["P"], rel=1e-12)


def test_heat_that_closes_vessels_gives_a_warning(tmp_path: Path) -> None:
    mild, hot = (
        heat_assumptions(read(tmp_path, DOSE + HEAT.replace("42", str(T)) + RUN)) for T in (45, 46)
    )
    assert not any("Warning" in s for s in mild)
    assert any("46 C" in s and "perfusion of tumours shuts down" in s for s in hot)


def test_a_thermometry_file_is_relative_to_the_schedule(tmp_path: Path) -> None:
    plan = read(tmp_path, DOSE + HEAT.replace("temperature_C = 42", 'file = "t.nii.gz"') + RUN)
    assert plan.heatings[0].file == tmp_path / "t.nii.gz"
    assert plan.heatings[0].temperature_K is None


@for_each(
    "text, words",
    [
        (RUN, ["no dose, no heating", "dose"]),
        (DOSE, ["run", "missing"]),
        (
            DOSE.replace("amount_mg = 90", "amount_mg = 0") + RUN,
            ["dose 1.amount_mg", "greater than 0"],
        ),
        (DOSE.replace("start_h = 0", "start_h = -1") + RUN, ["dose 1.start_h", "-1"]),
        (DOSE.replace("amount_mg = 90", 'amount_mg = "90"') + RUN, ["dose 1.amount_mg", "number"]),
        (
            DOSE.replace('"free"', '"doxil"') + RUN,
            ["dose 1.formulation", "doxil", "thermosensitive"],
        ),
        (DOSE.replace('"free"', '"mine.toml"') + RUN, ["mine.toml", "there is no such file"]),
        (
            DOSE.replace("= 90", "= 50000") + RUN,
            ["dose 1.amount_mg", "50000 mg", "are usual", "unit"],
        ),
        (DOSE.replace("= 90", "= 0.09") + RUN, ["dose 1.amount_mg", "0.09 mg", "are usual"]),
        (
            SURFACE + DOSE.replace("amount_mg = 90", "mg_per_m2 = 0.05") + RUN,
            ["dose 1.mg_per_m2", "0.05 mg/m2"],
        ),
        (DOSE + "[run]\nend_h = 24\nheat_effects = 0\n", ["run.heat_effects"]),
        (DOSE + "infusion = 3\n" + RUN, ["dose 1.infusion"]),
        (DOSE + "mg_per_m2 = 50\n" + RUN, ["dose 1.amount_mg", "either"]),
        (DOSE.replace("amount_mg = 90", "mg_per_m2 = 50") + RUN, ["subject.species", "[subject]"]),
        (
            DOSE.replace("free", "pegylated") + DOSE.replace("free", "thermosensitive") + RUN,
            ["one carrier", "pegylated and"],
        ),
        (
            DOSE + HEAT + HEAT.replace("start_h = 1", "start_h = 1.5") + RUN,
            ["overlap", "heat.start_h", "1.5"],
        ),
        (
            DOSE + HEAT + "ramp_min = 5\n" + HEAT.replace("start_h = 1", "start_h = 2.05") + RUN,
            ["overlap", "2.08333"],
        ),
        (DOSE + HEAT + 'file = "t.nii"\n' + RUN, ["heat 1.temperature_C", "either"]),
        (
            DOSE + HEAT.replace("temperature_C = 42", 'file = "t.nii"\nmode = "pennes"') + RUN,
            ["heat 1.mode", "imposed"],
        ),
        (DOSE + HEAT + "ramp_min = 61\n" + RUN, ["heat 1.ramp_min", "60"]),
        (DOSE + HEAT.replace("42", "315") + RUN, ["heat 1.temperature_C", "315"]),
        (DOSE + "[[radiation]]\ntime_h = 1\ndose_Gy = 0\n" + RUN, ["radiation 1.dose_Gy"]),
        (DOSE + "[imaging]\ntimes_h = [-2.0]\n" + RUN, ["imaging.times_h", "-2"]),
        (DOSE + "[imaging]\ntimes_h = [25]\n" + RUN, ["run.end_h", "at least 25"]),
        (DOSE + HEAT + "[run]\nend_h = 1.5\n", ["run.end_h", "at least 2"]),
        (DOSE + "[run]\nend_h = nan\n", ["run.end_h"]),
        ("dose = [", ["cannot be read"]),
    ],
)
def test_a_mistake_is_refused_by_the_name_of_its_field(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    with pytest.raises(InputError) as refused:
        read(tmp_path, text)
    for word in [*words] if "mine.toml" in words else ["plan.toml", *words]:
        assert word in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.toml: there is no such file"):
        read_schedule(tmp_path / "none.toml")
