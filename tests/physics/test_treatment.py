"""A treatment whose times are moved is the same treatment later."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nanopinn.physics.formulation_library import FREE, THERMOSENSITIVE
from nanopinn.physics.measured_plasma import MeasuredPlasma, PlasmaSamples
from nanopinn.physics.plasma import Dose
from nanopinn.physics.treatment import Fraction, GivenDose, Heating, RadiationCourse, Treatment

HOUR = 3600.0
GIVEN = Treatment(
    (
        GivenDose(THERMOSENSITIVE, Dose(2 * HOUR, 90e-6, 1800.0)),
        GivenDose(FREE, Dose(3 * HOUR, 20e-6)),
    ),
    (Heating(2.5 * HOUR, 3.5 * HOUR, 300.0, "imposed", 315.15),),
    RadiationCourse((Fraction(HOUR, 8.0), Fraction(26 * HOUR, 8.0))),
    (24 * HOUR,),
    48 * HOUR,
)


@pytest.mark.parametrize("by_h", [-2.0, 5.5])
def test_a_moved_treatment_has_the_same_course_at_moved_times(by_h: float) -> None:
    by = by_h * HOUR
    moved = GIVEN.shifted(by)
    before, after = GIVEN.plasma(), moved.plasma()
    for hours in (2.2, 4.0, 12.0, 40.0):
        t = torch.tensor(hours * HOUR, dtype=torch.float64)
        for name in ("encapsulated", "free"):
            assert float(getattr(after, name)(t + by)) == pytest.approx(
                float(getattr(before, name)(t)), rel=1e-9
            )
        assert moved.factors(hours * HOUR + by) == pytest.approx(GIVEN.factors(hours * HOUR))
    assert moved.events() == pytest.approx([t + by for t in GIVEN.events()])
    assert moved.heating_intervals_s == tuple(
        (a + by, b + by) for a, b in GIVEN.heating_intervals_s
    )
    assert (moved.images_s, moved.end_s) == ((24 * HOUR + by,), 48 * HOUR + by)
    assert moved.shifted(-by) == GIVEN


def test_measured_plasma_counts_from_the_first_dose_and_moves_with_it() -> None:
    samples = PlasmaSamples("encapsulated", (2e-2, 1e-2, 1e-3), (0.1, 0.1, 0.1))
    measured = MeasuredPlasma((0.5 * HOUR, 4 * HOUR, 24 * HOUR), (samples,))
    given = replace(GIVEN, doses=GIVEN.doses[:1], measured_plasma=measured)
    t = torch.tensor([2.5, 6.0, 26.0], dtype=torch.float64) * HOUR
    moved = given.shifted(-2 * HOUR)
    torch.testing.assert_close(
        moved.plasma().encapsulated(t - 2 * HOUR), given.plasma().encapsulated(t), rtol=1e-9, atol=0
    )
    # the samples are those that were measured
    torch.testing.assert_close(
        moved.plasma().encapsulated(t - 2 * HOUR),
        torch.tensor(samples.concentrations, dtype=torch.float64),
        rtol=1e-6,
        atol=0,
    )
