"""What a forward run returns: frozen, readable, with the balance of mass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nanopinn.results.fit_result import FieldEstimate, MapEstimate

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MassBalance:
    """Where the drug went, mg, pool by pool: ``entered = lost + outflow + stored`` for all pools
    together.

    What passes from one pool to another shows in neither row. Microvessels are flushed with plasma:
    most of what enters them leaves again, and is counted both ways.

    Attributes:
        names: the pools. entered: by plasma. lost: through walls, lymph and decay, or back to
            plasma.
        outflow: over the boundary of the box. stored: in the end.
        error: imbalance over the largest of the totals.
    """

    names: tuple[str, ...]
    entered: Array
    lost: Array
    outflow: Array
    stored: Array
    error: float

    def rows(self) -> list[tuple[str, float, float, float, float]]:
        """A row per pool and one for all, mg."""
        columns = np.stack([self.entered, self.lost, self.outflow, self.stored], axis=1)
        every = [*columns, columns.sum(axis=0)]
        return [
            (n, float(a), float(b), float(c), float(d))
            for n, (a, b, c, d) in zip((*self.names, "all"), every, strict=True)
        ]

    def __str__(self) -> str:
        lines = [f"{'mg':20s}{'entered':>13s}{'lost':>13s}{'outflow':>13s}{'stored':>13s}"]
        lines += [f"{name:20s}" + "".join(f"{v:13.4e}" for v in row) for name, *row in self.rows()]
        return "\n".join([*lines, f"imbalance {self.error:.1e}"])


@dataclass(frozen=True)
class TimeCourses:
    """Means over the tumour per tissue volume and concentrations in plasma, ug/mL, at every time
    step (s).
    """

    times_s: Array
    tumour: Mapping[str, Array]
    plasma: Mapping[str, Array]


@dataclass(frozen=True)
class PlasmaExposure:
    """What the body is exposed to by one kind of drug in plasma.

    Attributes:
        name: encapsulated, free (unbound and albumin-bound together), or unbound.
        area: under the curve to the end of the run, auc_to_infinity: of all times; ug h/mL, by
            closed form.
        highest: concentration, ug/mL, and when it is reached, s; a bolus counts as mixed at once.
    """

    name: str
    auc: float
    auc_to_infinity: float
    c_max: float
    t_max_s: float


@dataclass(frozen=True)
class Simulation:
    """One treatment of one tumour.

    Attributes:
        given: the treatment in words. fields: pools per tissue volume ``(t, x, y, z)`` at the
            imaging times, and what changes with them.
        maps: pressure and velocity at the start, pressure after heat and radiation. courses,
            balance: over the whole run.
        areas, peaks: of every pool, per tissue volume over the whole run: area under its curve (ug
            h/mL) and largest value (ug/mL).
        exposure: of the body, one entry per kind of drug in plasma.
        effort: steps and iterations in words. assumptions: one sentence each.
        affine, mask: of the image. seconds: of each part. read: files by name with their SHA-256.
    """

    treatment: tuple[str, ...]
    fields: Mapping[str, FieldEstimate]
    maps: Mapping[str, MapEstimate]
    courses: TimeCourses
    balance: MassBalance
    auc_maps: Mapping[str, MapEstimate]
    peak_maps: Mapping[str, MapEstimate]
    exposure: tuple[PlasmaExposure, ...]
    solver_statistics: str
    assumptions: tuple[str, ...]
    affine: Array
    mask: NDArray[np.bool_]
    seconds: Mapping[str, float] = field(default_factory=dict)
    input_hashes: Mapping[str, str] = field(default_factory=dict)

    def means(self, name: str) -> Array:
        """Mean of a field over the tumour at the imaging times, in the field's unit."""
        return np.asarray(np.nanmean(self.fields[name].values[:, self.mask], axis=1))

    def mean_peaks_and_aucs(self) -> list[tuple[str, float, float]]:
        """Of every pool the tumour's mean of its largest value (ug/mL) and of the area under its
        curve (ug h/mL).
        """
        return [
            (
                n,
                float(np.nanmean(self.peak_maps[n].values[self.mask])),
                float(np.nanmean(self.auc_maps[n].values[self.mask])),
            )
            for n in self.peak_maps
        ]

    def summary(self) -> str:
        """What was given, the tumour's mean of every field at the imaging times, and the balance of
        mass.
        """
        times = next(iter(self.fields.values())).times_s
        lines = [
            *self.treatment,
            "",
            "Tumour mean" + "".join(f"{f'{t / 3600:g} h':>12s}" for t in times),
        ]
        for name, f in self.fields.items():
            lines.append(
                f"{name:20s}" + "".join(f"{v:12.4g}" for v in self.means(name)) + f"  {f.unit}"
            )
        lines += ["", f"{'Tumour mean of':20s}{'peak, ug/mL':>14s}{'area, ug h/mL':>16s}"]
        lines += [
            f"{name:20s}{peak:14.4g}{area:16.4g}" for name, peak, area in self.mean_peaks_and_aucs()
        ]
        lines += [
            "",
            f"{'Plasma':20s}{'C_max, ug/mL':>14s}{'at, h':>10s}{'area, ug h/mL':>16s}{'ever':>12s}",
        ]
        lines += [
            f"{e.name:20s}{e.c_max:14.4g}{e.t_max_s / 3600:10.3g}{e.auc:16.4g}{e.auc_to_infinity:12.4g}"
            for e in self.exposure
        ]
        return "\n".join([*lines, "", str(self.balance), self.solver_statistics])

    def __repr__(self) -> str:
        return f"Simulation({'; '.join(self.treatment)}; {', '.join(self.fields)})"
