"""The temperature of a treatment on a refined grid."""

from __future__ import annotations

from dataclasses import replace

import torch

from nanopinn.parameters import MG
from nanopinn.physics.formulation_library import THERMOSENSITIVE
from nanopinn.physics.heat import scheduled_temperature
from nanopinn.solvers.drug_course import bolus_course
from nanopinn.solvers.grid import average_subcells


def test_every_part_of_a_cell_has_the_temperature_of_the_cell_at_all_times() -> None:
    where = torch.rand((2, 3, 2), dtype=torch.float64, generator=torch.manual_seed(0))
    heat = scheduled_temperature(where, 315.15, 600.0, 1800.0, 120.0)
    course = replace(bolus_course(THERMOSENSITIVE, 50 * MG), temperature=heat)
    fine = course.refined(2)
    assert fine.temperature is not None
    for t in (0.0, 660.0, 1000.0, 1850.0, 4000.0):
        refined = fine.temperature(t)
        assert refined.shape == (4, 6, 4)
        torch.testing.assert_close(average_subcells(refined, 2), heat(t), rtol=1e-14, atol=0)
        assert float(refined.max() - heat(t).max()) == 0.0
    ends = [[s.end for s in c.segments(3600.0)] for c in (course, fine)]
    assert ends[0] == ends[1]
    assert replace(course, temperature=None).refined(2).temperature is None
