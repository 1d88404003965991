"""What the body is exposed to: areas and peaks of drug in plasma.

What is shown of a forward run: fields at the imaging times, courses over the tumour, balance of
mass, words.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.parameters import value
from nanopinn.parameters.table import Values
from nanopinn.parameters.units import (
    HOUR,
    MG,
    MINUTE,
    MMHG,
    UG_H_PER_ML,
    UG_PER_ML,
    UM,
    ZERO_CELSIUS,
)
from nanopinn.physics.drug_pools import DRUG_POOLS, volume_fractions
from nanopinn.physics.plasma import PlasmaInput
from nanopinn.physics.treatment import GivenDose, Heating, Treatment
from nanopinn.report.treatment_summary import heat_assumptions
from nanopinn.results.fit_result import FieldEstimate, MapEstimate
from nanopinn.results.simulation_result import MassBalance, PlasmaExposure, Simulation, TimeCourses
from nanopinn.solvers.forward import FlowSolution
from nanopinn.solvers.grid import average_subcells
from nanopinn.solvers.nonlinear_pools import EvolutionResult
from nanopinn.solvers.time_partition import VOXEL_LIMITS, TreatmentTimeline
from nanopinn.studies.tissue_source import SimulatedTissue

#: Times between two events at which a curve is read, then narrowed to its top.
SAMPLES_PER_INTERVAL, REFINEMENTS = 33, 4


def plasma_exposure(
    treatment: Treatment, values: Values | None = None
) -> tuple[PlasmaExposure, ...]:
    """Areas by closed form and highest concentrations of encapsulated, free and unbound drug in
    plasma.

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
            PlasmaExposure(name, area / UG_H_PER_ML, ever / UG_H_PER_ML, highest / UG_PER_ML, at)
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
    # a leak that has just begun peaks soon: early times are read more densely, then the
    # neighbourhood of the highest
    times = a + (b - a) * torch.linspace(0, 1, SAMPLES_PER_INTERVAL, dtype=torch.float64) ** 3
    for _ in range(REFINEMENTS):
        k = int(smooth(times).argmax())
        low, high = times[max(0, k - 1)], times[min(SAMPLES_PER_INTERVAL - 1, k + 1)]
        best = float(times[k]), float(smooth(times[k]))
        times = torch.linspace(float(low), float(high), SAMPLES_PER_INTERVAL, dtype=torch.float64)
    return best


Array = NDArray[np.float64]


class TumourRecorder:
    """What a run leaves at every step: means over the tumour, and the largest value and the area
    under the curve of every voxel.

    Areas are trapezoids over the steps, whose length the run adapts to how fast pools change.
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
    """The result of a run."""
    t = course.treatment
    return Simulation(
        treatment=_describe_treatment(t),
        fields=_fields(course, tissue, run),
        maps=_flow_maps(course, tissue),
        courses=_courses(course, watch),
        balance=_balance(course, run),
        auc_maps=_tumour_maps_over_run(
            course, tissue, watch, watch.area / HOUR, "area under the curve of", "ug h/mL"
        ),
        peak_maps=_tumour_maps_over_run(
            course, tissue, watch, watch.peak, "largest value of", "ug/mL"
        ),
        exposure=plasma_exposure(t),
        solver_statistics=f"{run}; {course.flows_solved} flows solved",
        assumptions=(*tissue.assumptions, *notes, *_notes(t)),
        affine=tissue.affine,
        mask=tissue.mask,
        seconds=seconds,
        input_hashes=read,
    )


def _fields(
    course: TreatmentTimeline, tissue: SimulatedTissue, run: EvolutionResult
) -> dict[str, FieldEstimate]:
    t = course.treatment
    times = t.images_s or (t.end_s,)
    at = [run.times.index(s) for s in times]
    per_tissue = volume_fractions(course.detail.pools, course.setting.maps) * run.U[at] / UG_PER_ML

    def field(name: str, unit: str, words: str, values: Tensor) -> FieldEstimate:
        return FieldEstimate(
            name, unit, words, np.array(times), tissue.domain.embed(values.cpu().numpy())
        )

    found = {
        n: field(n, "ug/mL", f"{DRUG_POOLS[n].description}, per tissue volume", per_tissue[:, i])
        for i, n in enumerate(course.detail.pools)
    }
    if (temperature_course := course.temperature) is not None:
        kelvin = torch.stack([temperature_course(s) for s in times])
        found["temperature"] = field(
            "temperature", "C", "temperature of the tissue", kelvin - ZERO_CELSIUS
        )
    if t.changes_tissue:
        p = torch.stack(
            [average_subcells(course.flow(s)[0].p, course.setting.flow_refine) for s in times]
        )
        found["IFP"] = field(
            "IFP", "mmHg", "interstitial fluid pressure under radiation and heat", p / MMHG
        )
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


def _pressure_maps_after_events(
    course: TreatmentTimeline, tissue: SimulatedTissue, start: FlowSolution
) -> list[MapEstimate]:
    """Pressure when a heating has ended and when radiation's effect is largest, where they change
    it.
    """
    t, r = course.treatment, course.setting.flow_refine
    found = []
    moments = {
        "heat": ("when the last heating has ended", _last_heating_end(t)),
        "radiation": ("when radiation changes most", _radiation_peak_time(t)),
    }
    for name, (what, at) in moments.items():
        if at is not None and (flow := course.flow(at)[0]) is not start:
            p = tissue.domain.embed(average_subcells(flow.p, r).cpu().numpy()) / MMHG
            words = f"interstitial fluid pressure {what}, {at / HOUR:.3g} h"
            found.append(MapEstimate(f"IFP_after_{name}", "mmHg", words, "prior", p))
    return found


def _last_heating_end(t: Treatment) -> float | None:
    return min(t.end_s, max(h.end_s + h.ramp_s for h in t.heatings)) if t.heatings else None


def _radiation_peak_time(t: Treatment) -> float | None:
    peaks = [min(t.end_s, f.time_s + float(t.radiation.t_peak_s)) for f in t.radiation.fractions]
    return max(peaks, key=lambda s: float(t.radiation.effect(s))) if peaks else None


def _flow_maps(course: TreatmentTimeline, tissue: SimulatedTissue) -> dict[str, MapEstimate]:
    flow, model = course.flow(0.0)
    put = tissue.domain.embed
    speed = flow.velocity(course.setting.grid).norm(dim=0)
    p = average_subcells(flow.p, course.setting.flow_refine)
    found = [
        MapEstimate(
            "IFP",
            "mmHg",
            "interstitial fluid pressure at the start",
            "prior",
            put(p.cpu().numpy()) / MMHG,
        ),
        MapEstimate(
            "velocity",
            "um/s",
            "speed of the interstitial fluid at the start (Darcy)",
            "prior",
            put(speed.cpu().numpy()) / UM,
        ),
    ]
    if course.carrier is not None:
        k = model.release_rate(course.carrier)
        found.append(
            MapEstimate(
                "krel",
                "1/h",
                "release rate of the carrier at body temperature",
                "prior",
                put(k.cpu().numpy()) * HOUR,
            )
        )
    return {m.name: m for m in [*found, *_pressure_maps_after_events(course, tissue, flow)]}


def _courses(course: TreatmentTimeline, watch: TumourRecorder) -> TimeCourses:
    times = np.array(watch.times)
    means = torch.stack(watch.means).cpu().numpy() / UG_PER_ML
    given, at = course.treatment.plasma(), torch.tensor(watch.times, dtype=torch.float64)
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
        f"{g.dose.amount_kg / MG:g} mg {g.formulation.name} at"
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
    notes = [
        (
            "Plasma kinetics are those of the population in the parameter table; drug that leaves"
            " the tumour is not followed back to the body."
        ),
        (
            f"Microvessels are a well-mixed pool with a transit time of {value('tau_c'):g} s (from"
            " memory, 2 to 15 s in the literature); transit time does not answer to heat."
        ),
        "Uptake by cells saturates; cells do not divide, die or pump drug out.",
    ]
    if t.radiation.fractions:
        notes.append(
            "Radiation changes vessels and pressure by medians, of wide priors unless two scans"
            " were given: it is inconsistent in the literature even in direction."
        )
    notes += heat_assumptions(t)
    if t.changes_tissue:
        notes.append(
            "What changes flow and walls is held for stretches of at most"
            f" {VOXEL_LIMITS.max_segment_s / HOUR:g} h, in which no factor moves by more than"
            f" {VOXEL_LIMITS.log_factor_change:.0%}."
        )
    return notes
