"""Acquisition of a dynamic series: keys of the sidecar, their ranges and their precedence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.io.array_volume import VolumeSource
from nanopinn.io.safe_open import is_number, parse_number_list
from nanopinn.io.volumes import read_sidecar, sidecar_path
from nanopinn.parameters import value

Array = NDArray[np.float64]

#: No dynamic series has frames closer than this; below it a time is an excitation TR.
MIN_FRAME_SPACING_S = 0.1

#: Keys of the sidecar with their unit and meaning.
ACQUISITION_KEYS = {
    "VolumeTiming": (
        "s, list: start of every frame (or RepetitionTime, the constant frame spacing in s)"
    ),
    "RepetitionTimeExcitation": "s: excitation TR of the spoiled gradient echo",
    "FlipAngle": "degrees",
    "MagneticFieldStrength": "T",
    "ContrastRelaxivity": "1/(s mM): r1 of the agent; default 4.5 (3 T)",
    "BaselineFrames": "count: frames before contrast; detected when absent",
    "BolusArrivalTime": "s on the clock of VolumeTiming; detected when absent",
    "Hematocrit": "fraction; default 0.42",
    "ContrastDose": "mmol/kg: scales population curves; default 0.1",
    "Units": (
        "mM where the series holds concentration already; TR, flip angle and T1 are then not needed"
    ),
}

#: Values of ``Units`` that mark a series of concentrations.
CONCENTRATION_UNITS = ("mM", "mmol/L", "mmol/l")


_STATE_IT = "Write it into the sidecar, or give it with the array; there is no default."


@dataclass(frozen=True)
class DceAcquisition:
    """Facts of the acquisition that the kinetic analysis needs.

    Attributes:
        frame_times_s: start of every frame, s, ``(t,)``.
        repetition_time_s: excitation TR, s; NaN for concentrations.
        flip_angle_deg: degrees; NaN for concentrations.
        relaxivity: r1 of the contrast agent, 1/(s mM).
        hematocrit: fraction.
        dose_mmol_per_kg: dose of the contrast agent, mmol/kg.
        is_concentration: the series holds concentrations in mM.
        baseline_frames: frames before contrast; None: detected.
        bolus_arrival_s: s; None: detected.
        assumptions: one sentence each.
    """

    frame_times_s: Array
    repetition_time_s: float
    flip_angle_deg: float
    relaxivity: float
    hematocrit: float
    dose_mmol_per_kg: float
    is_concentration: bool
    baseline_frames: int | None
    bolus_arrival_s: float | None
    assumptions: tuple[str, ...]


def load_acquisition(
    dce: VolumeSource,
    frames: int,
    pixdim4_s: float,
    overrides: Mapping[str, Any] | None = None,
    default_hematocrit: float | None = None,
) -> DceAcquisition:
    """Acquisition of a series from its sidecar and the overrides, which replace it.

    Args:
        dce: series, a file or a volume in memory.
        frames: number of frames.
        pixdim4_s: frame spacing of the header, s; NaN if none.
        overrides: values under the keys of the sidecar.
        default_hematocrit: fraction where none is stated; that of humans if None.

    Raises:
        InputError: timing, TR or flip angle are missing, out of range or contradict each other.
    """
    name, notes = sidecar_path(dce), list[str]()
    side = _apply_overrides(read_sidecar(dce), overrides or {})
    times = _frame_times(side, frames, pixdim4_s, name, dce, notes)
    ready = side.get("Units") in CONCENTRATION_UNITS
    tr, flip = (float("nan"), float("nan")) if ready else read_excitation(side, name, notes)
    relaxivity = _relaxivity(side, name, notes)
    hematocrit = _hematocrit(side, name, notes, default_hematocrit)
    baseline, arrival = _read_baseline(side, times, name)
    dose = _number(side, "ContrastDose", name, 0.001, 2.0)
    return DceAcquisition(
        times,
        tr,
        flip,
        relaxivity,
        hematocrit,
        value("dose_Gd") if dose is None else dose,
        ready,
        baseline,
        arrival,
        tuple(notes),
    )


def _apply_overrides(side: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The sidecar with the overrides; any timing among them replaces both timing keys."""
    given = {k: v for k, v in overrides.items() if v is not None}
    timing = ("VolumeTiming", "RepetitionTime")
    replaced = timing if any(k in given for k in timing) else ()
    return {**{k: v for k, v in side.items() if k not in replaced}, **given}


def _relaxivity(side: Mapping[str, Any], name: Path, notes: list[str]) -> float:
    field = _number(side, "MagneticFieldStrength", name, 0.01, 30.0)
    found = _number(side, "ContrastRelaxivity", name, 1.0, 20.0)
    if found is not None:
        return found
    scanned = (
        f"; this scan was made at {field:g} T" if field is not None and abs(field - 3) > 0.2 else ""
    )
    notes.append(
        f"Relaxivity is taken as {value('r1_Gd'):g} 1/(s mM), a gadolinium chelate at 3 T{scanned}."
    )
    return value("r1_Gd")


def _hematocrit(
    side: Mapping[str, Any], name: Path, notes: list[str], default: float | None
) -> float:
    found = _number(side, "Hematocrit", name, 0.2, 0.7)
    if found is not None:
        return found
    taken = value("Hct") if default is None else default
    notes.append(f"Haematocrit is taken as {taken:g}.")
    return taken


def _read_baseline(
    side: Mapping[str, Any], times: Array, name: Path
) -> tuple[int | None, float | None]:
    """Stated number of baseline frames and bolus arrival; None where they are to be detected."""
    count = _number(side, "BaselineFrames", name, 1, len(times) - 3)
    arrival = _number(side, "BolusArrivalTime", name, float(times[0]), float(times[-1]))
    if count is not None and count != int(count):
        raise InputError(
            "not a whole number",
            file=name,
            field="BaselineFrames",
            found=count,
            expected=ACQUISITION_KEYS["BaselineFrames"],
            remedy="Correct the value.",
        )
    if count is not None and arrival is not None and times[int(count) - 1] > arrival:
        raise InputError(
            "baseline frames lie after the bolus arrival",
            file=name,
            field="BaselineFrames, BolusArrivalTime",
            found=(
                f"{int(count)} frames, the last at {times[int(count) - 1]:g} s, and {arrival:g} s"
            ),
            expected="frames before the arrival",
            remedy="Remove the wrong one.",
        )
    return None if count is None else int(count), arrival


def read_excitation(
    side: Mapping[str, Any], name: Path, notes: list[str] | None = None
) -> tuple[float, float]:
    """Excitation TR and flip angle; neither has a default.

    dcm2niix writes the TR of DICOM, which is that of the excitation, as ``RepetitionTime``; its
    sidecars are recognised by ``ConversionSoftware``.

    Args:
        side: the sidecar.
        name: sidecar that a refusal names.
        notes: receives a sentence where the TR was read so.

    Returns:
        TR (s) and flip angle (degrees).

    Raises:
        InputError: either is missing or out of range.
    """
    if _is_from_dcm2niix(side):
        side = {**side, "RepetitionTimeExcitation": side["RepetitionTime"]}
        if notes is not None:
            notes.append(
                f"The sidecar was written by dcm2niix, so its RepetitionTime,"
                f" {side['RepetitionTime']:g} s, is the excitation TR."
            )
    tr = _number(side, "RepetitionTimeExcitation", name, 1e-4, 0.1)
    flip = _number(side, "FlipAngle", name, 0.1, 179.0)
    for key, found in (("RepetitionTimeExcitation", tr), ("FlipAngle", flip)):
        if found is None:
            raise InputError(
                "a required value of the acquisition is missing",
                file=name,
                field=key,
                found="nothing",
                expected=ACQUISITION_KEYS[key],
                remedy=_STATE_IT,
            )
    assert tr is not None
    assert flip is not None
    return tr, flip


def _is_from_dcm2niix(side: Mapping[str, Any]) -> bool:
    """Whether ``RepetitionTime`` is an excitation TR because a converter of DICOM wrote it."""
    tr = side.get("RepetitionTime")
    if "RepetitionTimeExcitation" in side or not is_number(tr):
        return False
    return (
        "dcm2niix" in str(side.get("ConversionSoftware", "")).lower()
        and 0 < tr < MIN_FRAME_SPACING_S
    )


def read_sidecar_number(
    side: Mapping[str, Any], key: str, name: Path, low: float, high: float, meaning: str
) -> float:
    """A required number of a sidecar.

    Args:
        side: the sidecar.
        key: of the number.
        name: sidecar that a refusal names.
        low: smallest value.
        high: largest value.
        meaning: unit and meaning, for the refusal.

    Raises:
        InputError: the value is missing, not a number, or out of range.
    """
    found = side.get(key)
    if is_number(found) and low <= found <= high:
        return float(found)
    problem = "out of range" if is_number(found) else "not a number"
    raise InputError(
        problem if key in side else "a required value is missing",
        file=name,
        field=key,
        found=found if key in side else "nothing",
        expected=f"{low:g} to {high:g}, {meaning}",
        remedy="Check the value and its unit." if key in side else _STATE_IT,
    )


def _number(side: Mapping[str, Any], key: str, name: Path, low: float, high: float) -> float | None:
    """An optional number of the sidecar of a dynamic series."""
    if key not in side:
        return None
    return read_sidecar_number(side, key, name, low, high, ACQUISITION_KEYS.get(key, "s"))


def _frame_times(
    side: Mapping[str, Any],
    frames: int,
    pixdim4_s: float,
    name: Path,
    dce: VolumeSource,
    notes: list[str],
) -> Array:
    spacing = _frame_spacing(side, name)
    if "VolumeTiming" in side:
        times = _listed_times(side["VolumeTiming"], frames, name)
        if spacing is not None and _spacing_differs(times, spacing):
            raise InputError(
                "frame times contradict each other",
                file=name,
                field="VolumeTiming, RepetitionTime",
                found=f"median spacing {np.median(np.diff(times)):g} s and {spacing:g} s",
                expected="one spacing",
                remedy="Remove the wrong one.",
            )
    elif spacing is not None:
        times = np.arange(frames, dtype=np.float64) * spacing
    else:
        _require_frame_spacing(pixdim4_s, name, dce)
        notes.append(f"Frame times are taken from the header: one every {pixdim4_s:g} s.")
        return np.arange(frames, dtype=np.float64) * pixdim4_s
    if pixdim4_s >= MIN_FRAME_SPACING_S and _spacing_differs(times, pixdim4_s):
        spacing_used = np.median(np.diff(times))
        notes.append(
            f"The frame spacing of the sidecar, {spacing_used:g} s, is used in place of that of the"
            f" header, {pixdim4_s:g} s."
        )
    return times


def _spacing_differs(times: Array, spacing: float) -> bool:
    return bool(abs(np.median(np.diff(times)) - spacing) > 0.05 * spacing)


def _frame_spacing(side: Mapping[str, Any], name: Path) -> float | None:
    """Frame spacing by ``RepetitionTime``, s, unless that is the TR of the excitation."""
    if _is_from_dcm2niix(side):
        return None
    spacing = _number(side, "RepetitionTime", name, 0.0, 3600.0)
    if spacing is not None and (
        spacing < MIN_FRAME_SPACING_S or spacing == side.get("RepetitionTimeExcitation")
    ):
        raise InputError(
            "RepetitionTime holds an excitation TR, not the frame spacing",
            file=name,
            field="RepetitionTime",
            found=f"{spacing:g} s",
            expected="the time between frames",
            remedy=(
                "Write it as RepetitionTimeExcitation, and the frame spacing as RepetitionTime or"
                " VolumeTiming."
            ),
        )
    return spacing


def _require_frame_spacing(pixdim4_s: float, name: Path, dce: VolumeSource) -> None:
    remedy = "Write VolumeTiming into the sidecar, or give `frame_spacing`."
    if not np.isfinite(pixdim4_s) or pixdim4_s <= 0:
        raise InputError(
            "the series has no frame times",
            file=name,
            field="VolumeTiming",
            found="nothing",
            expected=ACQUISITION_KEYS["VolumeTiming"],
            remedy=remedy,
        )
    if pixdim4_s < MIN_FRAME_SPACING_S:
        raise InputError(
            "the header's frame spacing is an excitation TR",
            file=dce,
            field="pixdim[4]",
            found=f"{pixdim4_s:g} s",
            expected=f"at least {MIN_FRAME_SPACING_S} s",
            remedy=remedy,
        )


def _listed_times(listed: Any, frames: int, name: Path) -> Array:
    times = parse_number_list(listed)
    if times is None:
        raise InputError(
            "frame times are not numbers",
            file=name,
            field="VolumeTiming",
            found=listed,
            expected=ACQUISITION_KEYS["VolumeTiming"],
            remedy="Correct the list.",
        )
    if times.shape != (frames,):
        raise InputError(
            "the number of frame times differs from the frames",
            file=name,
            field="VolumeTiming",
            found=f"{times.size} times",
            expected=f"{frames} times",
            remedy="List the start of every frame, in s.",
        )
    if np.any(np.diff(times) <= 0):
        wrong = int(np.argmax(~(np.diff(times) > 0)))
        raise InputError(
            "frame times must increase",
            file=name,
            field="VolumeTiming",
            found=(
                f"{times[wrong]:g} s then {times[wrong + 1]:g} s (frames {wrong + 1} and"
                f" {wrong + 2})"
            ),
            expected="increasing times",
            remedy="Correct the list.",
        )
    if np.median(np.diff(times)) < MIN_FRAME_SPACING_S or np.median(np.diff(times)) > 600:
        raise InputError(
            "frame times are not in seconds",
            file=name,
            field="VolumeTiming",
            found=f"median spacing {np.median(np.diff(times)):g}",
            expected="0.1 to 600 s",
            remedy="Convert them.",
        )
    return times
