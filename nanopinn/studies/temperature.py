"""Temperature of the tissue under the heatings of a treatment: scheduled, measured or solved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.imaging.geometry import same_grid
from nanopinn.io.safe_open import parse_number_list
from nanopinn.io.volumes import read_sidecar, read_volume, sidecar_path
from nanopinn.parameters import ZERO_CELSIUS, value
from nanopinn.physics.heat import (
    TemperatureCourse,
    imposed_temperature,
    perfusion_heat_loss,
    scheduled_temperature,
    steady_heating_power,
)
from nanopinn.physics.treatment import Heating, Treatment
from nanopinn.report.treatment_summary import vascular_stasis_warning
from nanopinn.solvers.linear_pools import solve_bioheat
from nanopinn.studies.tissue_source import SimulatedTissue

#: Offset to K of each unit of a thermometry file.
KELVIN_OFFSETS = {"C": ZERO_CELSIUS, "K": 0.0}
#: Duration of cooling to the body's temperature, in units of the longest perfusion time constant: 7
#: K fall to 0.01 K.
COOLING_TIME_CONSTANTS = 6.5
#: Steps of Pennes' equation after an event: the first, the growth of each, and the longest.
FIRST_STEP_S, STEP_GROWTH, MAX_STEP_S = 1.0, 1.3, 60.0


def temperature_course(
    treatment: Treatment, tissue: SimulatedTissue
) -> tuple[TemperatureCourse | None, tuple[str, ...], tuple[Path, ...]]:
    """Temperature of the tissue under a treatment.

    Args:
        treatment: its heatings.
        tissue: that is heated.

    Returns:
        The temperature (None: that of the body throughout), the assumptions, and the files that
        were read.

    Raises:
        InputError: a thermometry file cannot be used.
    """
    if not treatment.heatings:
        return None, (), ()
    where = tissue.maps.tumour
    course = TemperatureCourse(torch.full_like(where, value("T_body")))
    notes: list[str] = []
    files: list[Path] = []
    for h in treatment.heatings:
        if h.file is not None:
            measured, file_notes = read_thermometry(h, tissue)
            course, notes, files = course.merge(measured), [*notes, *file_notes], [*files, h.file]
        elif h.mode == "imposed":
            assert h.temperature_K is not None
            course = course.merge(
                scheduled_temperature(where, h.temperature_K, h.start_s, h.end_s, h.ramp_s)
            )
            notes.append(
                f"Only the tumour is heated, uniformly to {h.temperature_K - ZERO_CELSIUS:g} C."
            )
    for group in _group_pennes_heatings(treatment.heatings):
        course = course.merge(
            _solve_bioheat_of_group(group, tissue, _bioheat_end_time(group, treatment))
        )
        notes.append(
            "Pennes' equation: only the tumour is heated, no heat crosses the boundary of the box,"
            " and perfusion does not depend on temperature."
        )
    return course, tuple(dict.fromkeys(notes)), tuple(files)


def _group_pennes_heatings(heatings: Sequence[Heating]) -> list[list[Heating]]:
    """Group consecutive heatings by Pennes' equation: tissue that is still warm is heated again."""
    groups: list[list[Heating]] = []
    before = "imposed"
    for h in heatings:
        if h.mode == "pennes":
            groups = [*groups[:-1], [*groups[-1], h]] if before == "pennes" else [*groups, [h]]
        before = h.mode
    return groups


def _bioheat_end_time(group: list[Heating], treatment: Treatment) -> float:
    """Time at which the tissue has cooled, the run ends, or another heating begins, s."""
    slowest = (
        value("rho_t")
        * value("c_t")
        / float(perfusion_heat_loss(min(value("w_b_t"), value("w_b_n"))))
    )
    cooled = group[-1].end_s + group[-1].ramp_s + COOLING_TIME_CONSTANTS * slowest
    later = [h.start_s for h in treatment.heatings if h.start_s > group[-1].start_s]
    return min([cooled, treatment.end_s, *later])


def _solve_bioheat_of_group(
    group: list[Heating], tissue: SimulatedTissue, end: float
) -> TemperatureCourse:
    where = tissue.maps.tumour
    full = [steady_heating_power(h.temperature_K or 0.0, value("w_b_t")) for h in group]

    def power(t: float) -> Tensor:
        return where * sum(float(q) * _power_share(h, t) for q, h in zip(full, group, strict=True))

    return solve_bioheat(where, tissue.grid, power, _time_nodes(group, end))


def _power_share(h: Heating, t: float) -> float:
    """Fraction of the full power at a time; ramps follow the start and the end."""
    if h.ramp_s == 0:
        return float(h.start_s <= t < h.end_s)
    return float(
        np.interp(
            t, [h.start_s, h.start_s + h.ramp_s, h.end_s, h.end_s + h.ramp_s], [0.0, 1.0, 1.0, 0.0]
        )
    )


def _time_nodes(group: list[Heating], end: float) -> list[float]:
    marks = sorted(
        {
            t
            for h in group
            for t in (h.start_s, h.start_s + h.ramp_s, h.end_s, h.end_s + h.ramp_s)
            if t < end
        }
        | {end}
    )
    nodes = [marks[0]]
    for mark in marks[1:]:
        step = FIRST_STEP_S
        while mark - nodes[-1] > 1.5 * step:
            nodes.append(nodes[-1] + step)
            step = min(step * STEP_GROWTH, MAX_STEP_S)
        nodes.append(mark)
    return nodes


def read_thermometry(
    heating: Heating, tissue: SimulatedTissue
) -> tuple[TemperatureCourse, list[str]]:
    """Read measured temperatures, which are linear between their times.

    The sidecar holds ``VolumeTiming``, s from the start of the heating, and ``Unit``, C or K.

    Args:
        heating: with its file.
        tissue: on whose grid the file is.

    Returns:
        The temperature, and the assumptions.

    Raises:
        InputError: the file is no series on the grid of the maps, has no times or unit, is longer
            than its heating, or holds no temperatures.
    """
    path = heating.file
    assert path is not None
    volume = read_volume(path)
    values = np.moveaxis(np.asarray(volume.numpy(), dtype=np.float64), -1, 0)
    if volume.ndim != 4 or not same_grid(
        tissue.mask.shape, tissue.affine, values.shape[1:], np.asarray(volume.affine)
    ):
        raise InputError(
            "the thermometry is not on the grid of the maps",
            file=path,
            field="shape and affine",
            found="x".join(map(str, volume.shape)),
            expected=f"{'x'.join(map(str, tissue.mask.shape))} voxels, 4-D",
            remedy="Resample it.",
        )
    side, name = read_sidecar(path), sidecar_path(path)
    if side.get("Unit") not in tuple(KELVIN_OFFSETS):
        raise InputError(
            "the unit of the thermometry is missing or unknown",
            file=name,
            field="Unit",
            found=side.get("Unit"),
            expected="C or K",
        )
    times = _read_frame_times(side.get("VolumeTiming"), len(values), heating, name)
    return _temperature_course_from_frames(
        values + KELVIN_OFFSETS[side["Unit"]], times, tissue, path
    )


def _read_frame_times(
    listed: object, frames: int, heating: Heating, name: Path
) -> NDArray[np.float64]:
    longest = heating.end_s - heating.start_s
    times = parse_number_list(listed)
    if times is None or times.shape != (frames,) or frames < 2 or (np.diff(times) <= 0).any():
        raise InputError(
            "the times of the thermometry cannot be used",
            file=name,
            field="VolumeTiming",
            found=listed,
            expected=f"{max(frames, 2)} increasing times, s after the heating's start",
        )
    if times[0] < 0 or times[-1] > longest * (1 + 1e-9):
        raise InputError(
            "the thermometry is longer than its heating",
            file=name,
            field="VolumeTiming",
            found=f"{times[0]:g} to {times[-1]:g} s",
            expected=f"0 to {longest:g} s",
            remedy="Correct the schedule's minutes.",
        )
    return heating.start_s + times


def _temperature_course_from_frames(
    T_K: NDArray[np.float64],
    times: NDArray[np.float64],
    tissue: SimulatedTissue,
    path: Path,
) -> tuple[TemperatureCourse, list[str]]:
    inside, body = tissue.mask, value("T_body")
    known = T_K[:, inside]
    if (
        not np.isfinite(known).any(axis=1).all()
        or not 273.0 < np.nanmin(known) <= np.nanmax(known) < 373.0
    ):
        raise InputError(
            "the thermometry holds no temperatures of a tumour",
            file=path,
            field="values",
            found=f"{np.nanmin(T_K) - ZERO_CELSIUS:g} to {np.nanmax(T_K) - ZERO_CELSIUS:g} C",
            expected="0 to 100 C in every frame",
            remedy="Check the Unit.",
        )
    holes = int((~np.isfinite(known)).any(axis=0).sum())
    mean = np.nanmean(known, axis=1)[:, None, None, None]
    filled = np.where(np.isfinite(T_K), T_K, np.where(inside, mean, body))
    maps = torch.as_tensor(
        tissue.domain.crop(filled, body), dtype=torch.float64, device=tissue.maps.tumour.device
    )
    notes = [
        f"The temperature is linear in time between images of {path.name}, and that of the body"
        " before the first and after the last."
    ]
    if holes:
        notes.append(
            f"{holes} tumour voxels without a value in {path.name} have the tumour's mean"
            " temperature."
        )
    if (hottest := float(np.nanmax(known))) > value("T_stasis"):
        notes.append(vascular_stasis_warning(hottest))
    return imposed_temperature(times.tolist(), maps), notes
