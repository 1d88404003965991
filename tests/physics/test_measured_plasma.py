"""Measured plasma curves against analytic exponentials, quadrature and the population's model."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from nanopinn.errors import InputError
from nanopinn.io.tables import Table, table_from_columns
from nanopinn.parameters import HOUR, MG, value
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.formulation_library import FREE, PEGYLATED, PH_SENSITIVE
from nanopinn.physics.measured_plasma import (
    MeasuredPlasma,
    check_measured_plasma,
    check_plasma_quantities,
    read_plasma,
)
from nanopinn.physics.plasma import Dose, SampledPlasmaCurves
from nanopinn.physics.species import describe_subject
from nanopinn.physics.treatment import GivenDose, RadiationCourse, Treatment

SUBJECT = describe_subject("human")
DOSE = (Dose(1800.0, 90 * MG),)
TIMES_H = (0.25, 1.0, 4.0, 24.0, 72.0)


def at(*t: float) -> torch.Tensor:
    return torch.tensor(t, dtype=torch.float64)


def read(haematocrit: float | None = None, **columns: object) -> MeasuredPlasma:
    """A table whose columns are named with . for /."""
    named = {k.replace("_per_", "/"): v for k, v in columns.items()}
    return read_plasma(table_from_columns(named, "plasma"), haematocrit)


def decay(c0: float, half_life_h: float, times_h: tuple[float, ...] = TIMES_H) -> list[float]:
    return [c0 * 2 ** (-t / half_life_h) for t in times_h]


def treated(
    measured: MeasuredPlasma | None,
    formulation: Formulation = PEGYLATED,
    doses: tuple[Dose, ...] = DOSE,
) -> Treatment:
    given = formulation.in_subject(SUBJECT)
    return Treatment(
        tuple(GivenDose(given, d) for d in doses),
        (),
        RadiationCourse(),
        (),
        96 * HOUR,
        subject=SUBJECT,
        measured_plasma=measured,
    )


def test_samples_of_one_exponential_give_it_at_all_times() -> None:
    """From the dose, which is not at time 0, to long after the last sample."""
    measured = read(time_h=TIMES_H, encapsulated_plasma_ug_per_mL=decay(30.0, 45.0))
    curve = treated(measured).plasma().encapsulated
    t = at(0.0, 1799.0, 1800.0, 1900.0, 1800 + 30 * HOUR, 1800 + 200 * HOUR)
    since = np.array([math.nan, math.nan, 0.0, 100.0, 30 * HOUR, 200 * HOUR])
    expected = np.nan_to_num(30e-3 * 2 ** (-since / (45 * HOUR)))
    np.testing.assert_allclose(curve(t), expected, rtol=1e-12)
    assert curve.area() == pytest.approx(30e-3 * 45 * HOUR / math.log(2), rel=1e-12)


def test_area_of_a_curve_is_its_quadrature() -> None:
    c = [20.0, 26.0, 11.0, 9.0, 2.0]
    measured = read(time_h=TIMES_H, encapsulated_plasma_ug_per_mL=c)
    plasma = treated(measured, doses=(Dose(0.0, 90 * MG, 600.0),)).plasma()
    for curve in (plasma.encapsulated, plasma.free, plasma.unbound().scaled(3.0)):
        for end in (300.0, 2 * HOUR, 60 * HOUR, 150 * HOUR):
            marks = [*(e for e in curve.events() if e < end), end]
            parts = []
            for a, b in itertools.pairwise(marks):
                smooth = curve.smooth_piece_from(a)
                parts.append(quad(lambda s, f=smooth: float(f(at(s))[0]), a, b)[0])
            assert curve.area_until(end) == pytest.approx(sum(parts), rel=1e-8)
        assert curve.area() == pytest.approx(curve.area_until(1e9), rel=1e-9)


def test_pieces_meet_at_every_sample_and_pass_through_it() -> None:
    c = [20.0, 26.0, 11.0, 9.0, 2.0]
    measured = read(time_h=TIMES_H, encapsulated_plasma_ug_per_mL=c)
    plasma = treated(measured).plasma()
    times = 1800 + np.array(TIMES_H) * HOUR
    np.testing.assert_allclose(plasma.encapsulated(at(*times)), np.array(c) * 1e-3, rtol=1e-12)
    for curve in (plasma.encapsulated, plasma.free):
        for a, b in itertools.pairwise(curve.events()):
            left, right = curve.smooth_piece_from(a)(at(b)), curve.smooth_piece_from(b)(at(b))
            torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-15)


def test_infused_drug_rises_from_zero_as_in_one_compartment() -> None:
    k, T = math.log(2) / (3 * HOUR), 1800.0
    of_infusion = (1 - np.exp(-k * T)) / (k * T)
    times = (1.0, 2.0, 6.0)
    c = [8.0 * of_infusion * np.exp(-k * (t * HOUR - T)) for t in times]
    curve = (
        treated(read(time_h=times, encapsulated_plasma_ug_per_mL=c), doses=(Dose(0.0, 90 * MG, T),))
        .plasma()
        .encapsulated
    )
    t = np.array([0.0, 600.0, 1800.0, 7200.0])
    expected = 8e-3 * (1 - np.exp(-k * np.minimum(t, T))) / (k * T)
    expected = expected * np.exp(-k * np.maximum(t - T, 0))
    np.testing.assert_allclose(curve(at(*t)), expected, rtol=1e-10, atol=1e-18)


@pytest.mark.parametrize("formulation", [PEGYLATED, PH_SENSITIVE])
def test_samples_of_the_population_carrier_give_its_free_drug(formulation: Formulation) -> None:
    """A measured carrier with the population's curve leaks as the population's."""
    times = tuple(np.concatenate([np.arange(0.0, 6, 0.1), np.arange(6.0, 400, 2)]).tolist())
    population = treated(None, formulation).plasma()
    t = at(*times) * HOUR + 1800
    c = (population.encapsulated(t) * 1e3).tolist()
    measured = read(time_h=times, encapsulated_plasma_ug_per_mL=c)
    found = treated(measured, formulation).plasma()
    np.testing.assert_allclose(found.free(t[5::7]), population.free(t[5::7]), rtol=2e-3)
    assert found.releasable_share == population.releasable_share
    assert found.fb == population.fb


def test_encapsulated_and_leaked_drug_add_to_the_measured_total() -> None:
    c = [30.0, 27.0, 22.0, 12.0, 5.0]
    measured = read(time_h=TIMES_H, total_plasma_ug_per_mL=c)
    plasma = treated(measured, PH_SENSITIVE).plasma({"krel_n": 2e-5})
    t = 1800 + at(*TIMES_H) * HOUR
    total = (plasma.encapsulated(t) + plasma.free(t)) * 1e3
    np.testing.assert_allclose(total, c, rtol=1e-8)
    assert float((plasma.free(t) / plasma.encapsulated(t)).max()) > 5e-4


def test_released_drug_is_used_where_it_was_measured() -> None:
    total, released = decay(30.0, 40.0), decay(0.5, 20.0)
    measured = read(
        time_h=TIMES_H, total_plasma_ug_per_mL=total, released_plasma_ng_per_mL=released
    )
    plasma = treated(measured).plasma()
    t = 1800 + at(*TIMES_H) * HOUR
    np.testing.assert_allclose(plasma.free(t), np.array(released) * 1e-6, rtol=1e-12)
    expected = np.array(total) * 1e-3 - np.array(released) * 1e-6
    np.testing.assert_allclose(plasma.encapsulated(t), expected, rtol=1e-12)


def test_all_measured_free_drug_is_free() -> None:
    measured = read(time_h=TIMES_H, total_plasma_ng_per_mL=decay(900.0, 20.0))
    plasma = treated(measured, FREE).plasma()
    assert float(plasma.encapsulated(at(1e4))[0]) == 0
    assert float(plasma.free(at(1800.0 + 20 * HOUR))[0]) == pytest.approx(450e-6)


def test_blood_is_converted_by_its_haematocrit() -> None:
    plasma = read(time_h=TIMES_H, encapsulated_plasma_ug_per_mL=decay(30.0, 45.0))
    blood = read(0.45, time_h=TIMES_H, encapsulated_blood_ug_per_mL=decay(16.5, 45.0))
    np.testing.assert_allclose(
        blood.samples[0].concentrations, plasma.samples[0].concentrations, rtol=1e-12
    )
    assert any("haematocrit of 0.45" in a for a in blood.assumptions)


def test_an_error_symbol_moves_one_sample() -> None:
    measured = read(time_h=TIMES_H, encapsulated_plasma_ug_per_mL=decay(30.0, 45.0))
    treatment = treated(measured)
    t = 1800 + at(*TIMES_H) * HOUR
    plain = treatment.plasma().encapsulated(t)
    moved = treatment.plasma({"plasma_encapsulated_2": 1.1}).encapsulated(t)
    np.testing.assert_allclose(moved / plain, [1, 1, 1.1, 1, 1], rtol=1e-12)


def test_errors_are_log_normal_with_the_stated_or_assumed_sd() -> None:
    c = decay(30.0, 45.0)
    stated = read(
        time_h=TIMES_H,
        encapsulated_plasma_ug_per_mL=c,
        encapsulated_plasma_ug_per_mL_sd=[0.3 * x for x in c],
    ).error_distributions()
    assert list(stated) == [f"plasma_encapsulated_{i}" for i in range(5)]
    for d in stated.values():
        draws = d.values_at_deviates(np.random.default_rng(0).normal(size=200_000))
        assert np.std(draws) / np.mean(draws) == pytest.approx(0.3, rel=0.02)
        assert d.median == 1
    measured = read(time_h=TIMES_H, encapsulated_plasma_ug_per_mL=c)
    assumed = measured.error_distributions()["plasma_encapsulated_0"]
    assert assumed.sd_above == pytest.approx(math.sqrt(math.log1p(0.15**2)))
    assert any("15%" in a and "assumed" in a for a in measured.assumptions)


def test_later_doses_repeat_a_curve_that_was_measured_once() -> None:
    times = (0.25, 1.0, 4.0, 24.0)
    measured = read(time_h=times, encapsulated_plasma_ug_per_mL=decay(30.0, 10.0, times))
    doses = (Dose(0.0, 60 * MG), Dose(48 * HOUR, 30 * MG))
    curve = treated(measured, doses=doses).plasma().encapsulated
    expected = 30e-3 * (2.0 ** (-5.0) + 0.5 * 2.0 ** (-0.2))
    assert float(curve(at(50 * HOUR))[0]) == pytest.approx(expected, rel=1e-12)
    assert curve.area() == pytest.approx(1.5 * 30e-3 * 10 * HOUR / math.log(2), rel=1e-12)
    assert any("in proportion" in s for s in measured.describe(doses))


def test_samples_after_every_dose_are_kept_apart_at_the_dose() -> None:
    """A sample at the time of the second dose is taken before it."""
    times = (1.0, 24.0, 48.0, 49.0, 72.0)
    c = [2 ** (-t / 10) for t in times[:3]] + [3 * 2 ** (-t / 10) for t in (1, 24)]
    measured = read(time_h=times, encapsulated_plasma_ug_per_mL=c)
    doses = (Dose(0.0, 60 * MG), Dose(48 * HOUR, 30 * MG))
    curve = treated(measured, doses=doses).plasma().encapsulated
    before = curve.smooth_piece_from(24 * HOUR)(at(48 * HOUR))
    assert float(before[0]) == pytest.approx(1e-3 * 2**-4.8)
    assert float(curve(at(48 * HOUR))[0]) == pytest.approx(3e-3)
    with pytest.raises(InputError, match="fewer than two plasma samples"):
        treated(measured, doses=(*doses, Dose(60 * HOUR, 30 * MG))).plasma()


def test_draws_of_errors_together_equal_each_alone() -> None:
    measured = read(time_h=TIMES_H, encapsulated_plasma_ug_per_mL=decay(30.0, 45.0))
    treatment = treated(measured, doses=(Dose(0.0, 90 * MG, 600.0),))
    drawn = [{"plasma_encapsulated_0": f, "krel_PLD": value("krel_PLD") * f} for f in (0.8, 1, 1.3)]
    for kind in ("releasable", "unbound"):
        curves = [getattr(treatment.plasma(v), kind)() for v in drawn]
        together = SampledPlasmaCurves.from_curves(curves, at(0.0))
        for start, t in ((0.0, 300.0), (600.0, 700.0), (5 * HOUR, 20 * HOUR), (72 * HOUR, 1e6)):
            each = torch.stack([c.smooth_piece_from(start)(at(t))[0] for c in curves])
            torch.testing.assert_close(together.smooth_piece_from(start)(t), each)


def test_every_kink_of_the_curve_is_an_event_of_the_treatment() -> None:
    measured = read(time_h=TIMES_H, total_plasma_ug_per_mL=decay(30.0, 45.0))
    treatment = treated(measured, doses=(Dose(900.0, 90 * MG, 300.0),))
    plasma = treatment.plasma()
    assert {*plasma.encapsulated.events(), *plasma.free.events()} <= set(treatment.events())
    assert {900 + t * HOUR for t in TIMES_H} <= set(treatment.events())


C = decay(30.0, 45.0)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"time_h": (1.0, 1.0, 4.0, 24.0, 72.0), "total_plasma_mg_per_L": C}, "times"),
        ({"time_h": (-1.0, 1.0, 4.0, 24.0, 72.0), "total_plasma_mg_per_L": C}, "times"),
        ({"time_h": (1.0,), "total_plasma_mg_per_L": [3.0]}, "times"),
        ({"time_h": TIMES_H, "total_plasma_mg_per_L": [*C[:4], -1.0]}, "not positive"),
        ({"time_h": TIMES_H, "total_plasma_mg_per_L": [*C[:4], 0.0]}, "not positive"),
        ({"time_h": TIMES_H, "total_plasma_mg_per_L": C[::-1]}, "does not fall"),
        ({"time_h": TIMES_H, "total_plasma_mM": C}, "unknown column"),
        ({"time_h": TIMES_H, "bound_plasma_mg_per_L": C}, "unknown column"),
        ({"time_h": TIMES_H, "total_plasma_mg_per_L_sd": C}, "unknown column"),
        ({"time_h": TIMES_H, "total_plasma_mg_per_L": C, "total_blood_mg_per_L": C}, "twice"),
        ({"time_s": TIMES_H, "total_plasma_mg_per_L": C}, "lacks its columns"),
        ({"time_h": TIMES_H}, "lacks its columns"),
        ({"time_h": TIMES_H, "total_blood_mg_per_L": C}, "haematocrit"),
    ],
)
def test_tables_that_are_no_plasma_curve_are_refused(columns: dict, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        read(**columns)
    assert error.value.remedy


def test_concentrations_in_another_unit_are_refused() -> None:
    """Both ways, with and without a population, and for free drug far below its dose."""
    for formulation, c in ((PEGYLATED, 30.0), (FREE, 0.05)):
        population = treated(None, formulation).plasma()
        for factor in (1e-3, 1e3):
            measured = read(time_h=TIMES_H, total_plasma_ug_per_mL=decay(factor * c, 45.0))
            with pytest.raises(InputError, match="not plausible"):
                check_measured_plasma(measured, DOSE, SUBJECT, population)
        right = read(time_h=TIMES_H, total_plasma_ug_per_mL=decay(c, 45.0))
        check_measured_plasma(right, DOSE, SUBJECT, population)
        check_measured_plasma(right, DOSE, SUBJECT)


def test_samples_that_start_after_the_first_image_are_refused() -> None:
    measured = read(time_h=TIMES_H, total_plasma_ug_per_mL=C)
    with pytest.raises(InputError, match="start after the first drug image"):
        check_measured_plasma(measured, DOSE, SUBJECT, first_image_s=600.0)
    check_measured_plasma(measured, DOSE, SUBJECT, first_image_s=1000.0)


def test_quantities_that_leave_the_drug_open_are_refused() -> None:
    encapsulated, released, total = (
        read(time_h=TIMES_H, **{f"{q}_plasma_ug_per_mL": C})
        for q in ("encapsulated", "released", "total")
    )
    for measured, formulations in (
        (released, (PEGYLATED,)),
        (encapsulated, (FREE,)),
        (total, (PEGYLATED, FREE)),
    ):
        with pytest.raises(InputError, match="does not suit"):
            check_plasma_quantities(measured, formulations)
    for measured, formulation in ((total, FREE), (released, FREE), (encapsulated, PEGYLATED)):
        check_plasma_quantities(measured, (formulation,))


def test_a_carrier_without_known_kinetics_is_allowed_when_measured() -> None:
    carrier = replace(
        PEGYLATED, circulations=tuple(c for c in PEGYLATED.circulations if c[0] == "human")
    )
    rat = describe_subject("rat")
    with pytest.raises(InputError, match="not known in this species"):
        carrier.in_subject(rat)
    found = carrier.in_subject(rat, plasma_is_measured=True)
    assert found.circulation is not None
    assert found.circulation.volume_m3(weight_kg=0.25) == pytest.approx(0.25 * value("Vp_body_rat"))


def test_a_file_is_read_with_tabs(tmp_path: Path) -> None:
    path = tmp_path / "plasma.tsv"
    rows = [f"{t}\t{c}" for t, c in zip(TIMES_H, C, strict=True)]
    path.write_text("\n".join(["time_h\ttotal_plasma_ug/mL", *rows]) + "\n")
    measured = read_plasma(path)
    assert measured.file == str(path)
    assert measured.times_s[0] == 900.0
    assert isinstance(
        read_plasma(Table(path, ("time_h", "total_plasma_mg/L"), (["1", "2"], ["2", "1"]))),
        MeasuredPlasma,
    )


def test_the_table_of_the_documentation_is_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "therapy.md").read_text(encoding="utf-8")
    rows = re.findall(r"^    (time_h\t.*|[\d.]+\t.*)$", page, flags=re.MULTILINE)
    path = tmp_path / "plasma.tsv"
    path.write_text("\n".join(rows) + "\n")
    measured = read_plasma(path)
    assert measured.quantities == ("total",)
    check_measured_plasma(measured, DOSE, SUBJECT, treated(None).plasma())
