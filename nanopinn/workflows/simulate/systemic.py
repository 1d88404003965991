"""What the body is exposed to: areas and peaks of drug in plasma."""

from __future__ import annotations

import itertools

import torch

from nanopinn.physics.plasma import PlasmaInput
from nanopinn.physics.values import Values
from nanopinn.report.simulated import PlasmaExposure
from nanopinn.workflows.treatment import Treatment

#: ug/mL per kg/m3; s per h.
UG_PER_ML, HOUR = 1e3, 3600.0
#: Times between two events at which a curve is read, then narrowed to its top.
SAMPLES_PER_INTERVAL, REFINEMENTS = 33, 4


def plasma_exposure(
    treatment: Treatment, values: Values | None = None
) -> tuple[PlasmaExposure, ...]:
    """Areas by closed form and highest concentrations of encapsulated, free and unbound drug in plasma.

    Args:
        values: of parameters by symbol, in place of the table's.
    """
    given = treatment.plasma(values)
    curves = {"encapsulated": given.encapsulated, "free": given.free, "unbound": given.unbound()}
    found = []
    for name, curve in curves.items():
        at, highest = find_peak(curve, treatment.end_s)
        area, ever = curve.area_until(treatment.end_s), curve.area()
        found.append(
            PlasmaExposure(
                name, area * UG_PER_ML / HOUR, ever * UG_PER_ML / HOUR, highest * UG_PER_ML, at
            )
        )
    return tuple(found)


def find_peak(curve: PlasmaInput, end_s: float) -> tuple[float, float]:
    """When a curve is highest up to a time, s, and how high; between events it has one top at most."""
    marks = sorted({0.0, *(e for e in curve.events() if 0 < e < end_s), end_s})
    return max(
        (_find_peak_in_interval(curve, a, b) for a, b in itertools.pairwise(marks)),
        key=lambda top: top[1],
    )


def _find_peak_in_interval(curve: PlasmaInput, a: float, b: float) -> tuple[float, float]:
    smooth = curve.smooth_piece_from(a)
    # a leak that has just begun peaks soon: early times are read more densely, then the neighbourhood of the highest
    times = a + (b - a) * torch.linspace(0, 1, SAMPLES_PER_INTERVAL, dtype=torch.float64) ** 3
    for _ in range(REFINEMENTS):
        k = int(smooth(times).argmax())
        low, high = times[max(0, k - 1)], times[min(SAMPLES_PER_INTERVAL - 1, k + 1)]
        best = float(times[k]), float(smooth(times[k]))
        times = torch.linspace(float(low), float(high), SAMPLES_PER_INTERVAL, dtype=torch.float64)
    return best
