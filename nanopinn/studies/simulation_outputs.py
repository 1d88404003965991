"""Results of a forward simulation: fields at the imaging times, tumour means in time, AUC and peak
of every pool, plasma exposure, mass balance, and a description of the treatment.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.parameters import (
    HOUR,
    MG,
    MINUTE,
    UG_H_PER_ML,
    UG_PER_ML,
    ZERO_CELSIUS,
    Values,
    value,
)
from nanopinn.physics.drug_pools import DRUG_POOLS, volume_fractions
from nanopinn.physics.plasma import PlasmaInput
from nanopinn.physics.treatment import GivenDose, Heating, Treatment
from nanopinn.progress import Progress, ignore_progress
from nanopinn.report.treatment_summary import heat_assumptions
from nanopinn.results import (
    FieldEstimate,
    MapEstimate,
    MassBalance,
    PlasmaExposure,
    Simulation,
    TimeCourses,
)
from nanopinn.solvers.nonlinear_pools import EvolutionResult
from nanopinn.solvers.time_partition import VOXEL_LIMITS
from nanopinn.solvers.treatment_timeline import TreatmentTimeline
from nanopinn.studies.flow_outputs import (
    changing_fields,
    field_at_times,
    flow_courses,
    flow_fields,
    flow_maps,
)
from nanopinn.studies.tissue_source import SimulatedTissue

#: Times between two events at which a curve is evaluated, and refinements around its maximum.
SAMPLES_PER_INTERVAL, REFINEMENTS = 33, 4


def plasma_exposure(
    treatment: Treatment, values: Values | None = None
) -> tuple[PlasmaExposure, ...]:
    """AUC in closed form and C_max of encapsulated, free and unbound drug in plasma.

    Args:
        treatment: what is given.
        values: of parameters by symbol, in place of the table's.
    """
    given = treatment.plasma(values)
    curves = {"encapsulated": given.encapsulated, "free": given.free, "unbound": given.unbound()}
    found = []
    for name, curve in curves.items():
        at, highest = find_peak(curve, treatment.end_s)
        area, ever = curve.area_until(treatment.end_s), curve.area()
        found.append(
            PlasmaExposure(name, area / UG_H_PER_ML, ever / UG_H_PER_ML, highest / UG_PER_ML, at)
        )
    return tuple(found)


def find_peak(curve: PlasmaInput, end_s: float) -> tuple[float, float]:
    """Find the maximum of a plasma curve, which has at most one between two events.

    Args:
        curve: concentration in plasma.
        end_s: end of the search, s.

    Returns:
        Time of the maximum, s, and its value.
    """
    marks = sorted({0.0, *(e for e in curve.events() if 0 < e < end_s), end_s})
    return max(
        (_find_peak_in_interval(curve, a, b) for a, b in itertools.pairwise(marks)),
        key=lambda top: top[1],
    )


def _find_peak_in_interval(curve: PlasmaInput, a: float, b: float) -> tuple[float, float]:
    smooth = curve.smooth_piece_from(a)
    # a leak that has just begun peaks early, so early times are denser
    times = a + (b - a) * torch.linspace(0, 1, SAMPLES_PER_INTERVAL, dtype=torch.float64) ** 3
    for _ in range(REFINEMENTS):
        k = int(smooth(times).argmax())
        low, high = times[max(0, k - 1)], times[min(SAMPLES_PER_INTERVAL - 1, k + 1)]
        best = float(times[k]), float(smooth(times[k]))
        times = torch.linspace(float(low), float(high), SAMPLES_PER_INTERVAL, dtype=torch.float64)
    return best


Array = NDArray[np.float64]


class TumourRecorder:
    """Records tumour means at every step, and the peak and AUC of every voxel.

    The AUC is a sum of trapezoids over the steps, whose length is adapted to the change of pools.

    Args:
        course: the treatment.

    Attributes:
        times: of the steps, s.
        means: over the tumour, per tissue volume, ``(pool,)`` for each step, kg/m3.
        peak: largest value of every pool and voxel, kg/m3.
        area: AUC of every pool and voxel, kg s/m3.
    """

    def __init__(self, course: TreatmentTimeline) -> None:
        self.inside = course.setting.maps.tumour > 0.5
        self.fractions = volume_fractions(course.detail.pools, course.setting.maps)
        self.share = self.fractions[:, self.inside]
        self.times: list[float] = []
        self.means: list[Tensor] = []
        self.peak, self.area = torch.zeros_like(self.fractions), torch.zeros_like(self.fractions)
        self._last: Tensor | None = None

    def __call__(self, t: float, U: Tensor) -> None:
        torch.maximum(self.peak, U, out=self.peak)
        if self._last is not None:
            half = (t - self.times[-1]) / 2
            self.area.add_(self._last, alpha=half).add_(U, alpha=half)
        self._last = U
        self.times.append(t)
        self.means.append((U[:, self.inside] * self.share).mean(dim=1))


def build_simulation(
    course: TreatmentTimeline,
    tissue: SimulatedTissue,
    run: EvolutionResult,
    watch: TumourRecorder,
    notes: Sequence[str],
    seconds: Mapping[str, float],
    read: Mapping[str, str],
) -> Simulation:
    """Assemble the result of a run.

    Args:
        course: the treatment.
        tissue: in which it was simulated.
        run: solution of the pools.
        watch: what was recorded at every step.
        notes: assumptions on the temperature.
        seconds: duration of each part.
        read: SHA-256 of every input file, by name.
    """
    t = course.treatment
    return Simulation(
        treatment=_describe_treatment(t),
        fields=_fields(course, tissue, run),
        maps=flow_maps(course, tissue),
        courses=_courses(course, watch),
        balance=_balance(course, run),
        auc_maps=_tumour_maps_over_run(
            course, tissue, watch, watch.area / HOUR, "AUC of", "ug h/mL"
        ),
        peak_maps=_tumour_maps_over_run(course, tissue, watch, watch.peak, "peak of", "ug/mL"),
        exposure=plasma_exposure(t, course.values),
        solver_statistics=f"{run}; {course.flows_solved} flows solved",
        assumptions=(*tissue.assumptions, *notes, *_notes(t)),
        affine=tissue.affine,
        mask=tissue.mask,
        seconds=seconds,
        input_hashes=read,
    )


def build_flow_simulation(
    course: TreatmentTimeline,
    tissue: SimulatedTissue,
    notes: Sequence[str],
    seconds: Mapping[str, float],
    read: Mapping[str, str],
    show: Progress = ignore_progress,
) -> Simulation:
    """Assemble the result of a treatment without a dose: pressure, velocity and filtration.

    Args:
        course: the treatment.
        tissue: in which it was simulated.
        notes: assumptions on the temperature.
        seconds: duration of each part.
        read: SHA-256 of every input file, by name.
        show: called with the stage and the fraction that is done.
    """
    t, began = course.treatment, time.perf_counter()
    courses = flow_courses(course, show)
    fields = flow_fields(course, tissue, t.images_s or (t.end_s,))
    maps = flow_maps(course, tissue)
    nothing = np.zeros(0)
    return Simulation(
        treatment=_describe_treatment(t),
        fields=fields,
        maps=maps,
        courses=courses,
        balance=MassBalance((), nothing, nothing, nothing, nothing, 0.0),
        auc_maps={},
        peak_maps={},
        exposure=(),
        solver_statistics=f"{course.flows_solved} flows solved",
        assumptions=(*tissue.assumptions, *notes, *_notes(t)),
        affine=tissue.affine,
        mask=tissue.mask,
        seconds={**seconds, "flow": time.perf_counter() - began},
        input_hashes=read,
    )


def _fields(
    course: TreatmentTimeline, tissue: SimulatedTissue, run: EvolutionResult
) -> dict[str, FieldEstimate]:
    t = course.treatment
    times = t.images_s or (t.end_s,)
    at = [run.times.index(s) for s in times]
    per_tissue = volume_fractions(course.detail.pools, course.setting.maps) * run.U[at] / UG_PER_ML

    found = {
        n: field_at_times(
            n,
            "ug/mL",
            f"{DRUG_POOLS[n].description}, per tissue volume",
            per_tissue[:, i],
            times,
            tissue,
        )
        for i, n in enumerate(course.detail.pools)
    }
    found |= changing_fields(course, tissue, times)
    return found


def _tumour_maps_over_run(
    course: TreatmentTimeline,
    tissue: SimulatedTissue,
    watch: TumourRecorder,
    values: Tensor,
    what: str,
    unit: str,
) -> dict[str, MapEstimate]:
    put = tissue.domain.embed((values * watch.fractions / UG_PER_ML).cpu().numpy())
    names = course.detail.pools
    return {
        n: MapEstimate(
            n, unit, f"{what} {DRUG_POOLS[n].description}, per tissue volume", "prior", put[i]
        )
        for i, n in enumerate(names)
    }


def _courses(course: TreatmentTimeline, watch: TumourRecorder) -> TimeCourses:
    times = np.array(watch.times)
    means = torch.stack(watch.means).cpu().numpy() / UG_PER_ML
    given, at = (
        course.treatment.plasma(course.values),
        torch.tensor(watch.times, dtype=torch.float64),
    )
    plasma = {
        "encapsulated": given.encapsulated,
        "free_total": given.free,
        "unbound": given.unbound(),
    }
    return TimeCourses(
        times,
        {n: means[:, i] for i, n in enumerate(course.detail.pools)},
        {n: c(at).numpy() / UG_PER_ML for n, c in plasma.items()},
    )


def _balance(course: TreatmentTimeline, run: EvolutionResult) -> MassBalance:
    b, mg = run.balance, course.setting.grid.cell_volume / MG
    entered, lost, outflow, stored = (
        (v * mg).cpu().numpy() for v in (b.entered, b.lost, b.outflow, b.stored)
    )
    return MassBalance(course.detail.pools, entered, lost, outflow, stored, b.error)


def _describe_treatment(t: Treatment) -> tuple[str, ...]:
    fractions = (f"{f.dose_Gy:g} Gy at {f.time_s / HOUR:g} h" for f in t.radiation.fractions)
    return (*map(_format_dose, t.doses), *map(_format_heating, t.heatings), *fractions)


def _format_dose(g: GivenDose) -> str:
    over = f" over {g.dose.infusion_s / MINUTE:g} min" if g.dose.infusion_s else ", a bolus"
    return (
        f"{g.dose.amount_kg / MG:.4g} mg {g.formulation.name} at"
        f" {g.dose.start_s / HOUR:g} h{over} ({g.formulation.description})"
    )


def _format_heating(h: Heating) -> str:
    what = (
        f"to {h.temperature_K - ZERO_CELSIUS:g} C ({h.mode})"
        if h.temperature_K is not None
        else f"as measured in {h.file and h.file.name}"
    )
    return (
        f"heat {what} from {h.start_s / HOUR:g} to {h.end_s / HOUR:g} h, ramps of"
        f" {h.ramp_s / MINUTE:g} min"
    )


def _notes(t: Treatment) -> list[str]:
    notes = _notes_on_drug(t) if t.doses else ["No drug is given."]
    if t.radiation.fractions:
        notes.append(
            "The effect of radiation on vessels and pressure is the median of wide priors, unless"
            " two scans were given; the literature is inconsistent even in its direction."
        )
    notes += (*t.assumptions, *heat_assumptions(t))
    if t.changes_tissue and t.doses:
        notes.append(
            "Effects on flow and vessel walls are constant within time segments of at most"
            f" {VOXEL_LIMITS.max_segment_s / HOUR:g} h, in which no factor changes by more than"
            f" {VOXEL_LIMITS.log_factor_change:.0%}."
        )
    return notes


def _notes_on_drug(t: Treatment) -> list[str]:
    plasma = "Plasma kinetics are those of the population in the parameter table."
    return [
        *([] if t.measured_plasma is not None else [plasma]),
        "Drug that leaves the tumour does not return to the plasma.",
        (
            f"Microvessels are a well-mixed pool with a transit time of {value('tau_c'):g} s (from"
            " memory, 2 to 15 s in the literature); heat does not change the transit time."
        ),
        "Uptake by cells saturates; division, death and active efflux of cells are not modelled.",
    ]
