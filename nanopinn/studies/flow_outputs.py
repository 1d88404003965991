"""Pressure, velocity and filtration under a treatment: at the imaging times, at the start and after
events, and as tumour means in time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nanopinn.parameters import HOUR, MMHG, UM, ZERO_CELSIUS
from nanopinn.physics.treatment import Treatment
from nanopinn.progress import Progress
from nanopinn.results import FieldEstimate, MapEstimate, TimeCourses
from nanopinn.solvers.forward import FlowSolution
from nanopinn.solvers.grid import average_subcells
from nanopinn.solvers.treatment_timeline import TreatmentTimeline
from nanopinn.studies.tissue_source import SimulatedTissue

#: Longest time between two points of a course of the flow, s.
COURSE_STEP_S = 1 * HOUR


def field_at_times(
    name: str,
    unit: str,
    words: str,
    values: Tensor,
    times_s: Sequence[float],
    tissue: SimulatedTissue,
) -> FieldEstimate:
    """A field of a simulation on the grid of the image.

    Args:
        name: of the field.
        unit: of the values.
        words: description.
        values: on the grid of the box, ``(t, x, y, z)``.
        times_s: ``(t,)``, s.
        tissue: in which it was simulated.
    """
    put = tissue.domain.embed(values.cpu().numpy())
    return FieldEstimate(name, unit, words, np.array(times_s), put)


def changing_fields(
    course: TreatmentTimeline, tissue: SimulatedTissue, times_s: Sequence[float]
) -> dict[str, FieldEstimate]:
    """Temperature and pressure at the imaging times, where the treatment changes them.

    Args:
        course: the treatment.
        tissue: in which it was simulated.
        times_s: imaging times, s.
    """
    found = {}
    if (temperature := course.temperature) is not None:
        kelvin = torch.stack([temperature(s) for s in times_s])
        found["temperature"] = field_at_times(
            "temperature",
            "C",
            "temperature of the tissue",
            kelvin - ZERO_CELSIUS,
            times_s,
            tissue,
        )
    if course.treatment.changes_tissue:
        p = torch.stack([_pressure_on_voxels(course, course.flow(s)[0]) for s in times_s])
        found["IFP"] = field_at_times(
            "IFP",
            "mmHg",
            "interstitial fluid pressure under radiation and heat",
            p / MMHG,
            times_s,
            tissue,
        )
    return found


def flow_fields(
    course: TreatmentTimeline, tissue: SimulatedTissue, times_s: Sequence[float]
) -> dict[str, FieldEstimate]:
    """Pressure, velocity, filtration, and temperature where there is heat, at the imaging times.

    Args:
        course: the treatment.
        tissue: in which it was simulated.
        times_s: imaging times, s.
    """
    flows = [course.flow(s)[0] for s in times_s]
    units = {"IFP": "mmHg", "velocity": "um/s", "filtration": "1/h"}
    words = {
        "IFP": "interstitial fluid pressure",
        "velocity": "speed of the interstitial fluid (Darcy)",
        "filtration": "filtration through the vessel walls per tissue volume",
    }
    values = [_flow_quantities(course, f) for f in flows]
    found = {
        n: field_at_times(n, unit, words[n], torch.stack([v[n] for v in values]), times_s, tissue)
        for n, unit in units.items()
    }
    return {**changing_fields(course, tissue, times_s), **found}


def flow_courses(course: TreatmentTimeline, show: Progress) -> TimeCourses:
    """Tumour means of pressure, velocity and filtration in time.

    Args:
        course: the treatment.
        show: called with the stage and the fraction that is done.
    """
    t = course.treatment
    regular = np.arange(0.0, t.end_s, min(COURSE_STEP_S, t.end_s / 20))
    events = [e for e in t.events() if 0 <= e <= t.end_s]
    times = np.unique(np.concatenate([regular, events, t.images_s, [t.end_s]]))
    inside = course.setting.maps.tumour > 0.5
    means: dict[str, list[float]] = {
        "IFP_mmHg": [],
        "velocity_um_per_s": [],
        "filtration_per_h": [],
    }
    for k, s in enumerate(times):
        show("flow", k / len(times), {})
        found = _flow_quantities(course, course.flow(float(s))[0])
        for column, v in zip(means, found.values(), strict=True):
            means[column].append(float(v[inside].mean()))
    return TimeCourses(times, {}, {}, {n: np.array(v) for n, v in means.items()})


def _flow_quantities(course: TreatmentTimeline, flow: FlowSolution) -> dict[str, Tensor]:
    """Pressure in mmHg, speed in um/s and filtration in 1/h, ``(x, y, z)`` each."""
    return {
        "IFP": _pressure_on_voxels(course, flow) / MMHG,
        "velocity": flow.velocity(course.setting.grid).norm(dim=0) / UM,
        "filtration": flow.J_v * HOUR,
    }


def _pressure_on_voxels(course: TreatmentTimeline, flow: FlowSolution) -> Tensor:
    return average_subcells(flow.p, course.setting.flow_refine)


def _pressure_maps_after_events(
    course: TreatmentTimeline, tissue: SimulatedTissue, start: FlowSolution
) -> list[MapEstimate]:
    """Pressure at the end of the last heating and at the largest effect of radiation, where it
    differs from that at the start.
    """
    t, r = course.treatment, course.setting.flow_refine
    found = []
    moments = {
        "heat": ("at the end of the last heating", _last_heating_end(t)),
        "radiation": ("at the largest effect of radiation", _radiation_peak_time(t)),
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


def flow_maps(course: TreatmentTimeline, tissue: SimulatedTissue) -> dict[str, MapEstimate]:
    """Pressure and velocity at the start, release rate of a carrier, and pressure after events.

    Args:
        course: the treatment.
        tissue: in which it was simulated.
    """
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
