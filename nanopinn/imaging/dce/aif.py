"""Arterial input function (AIF): a population curve, a table, the voxels of a mask, or voxels
detected automatically.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.dce.aif_population import POPULATION_CURVES, parker
from nanopinn.imaging.dce.impulse_response import PlasmaCurve, plasma_from_blood
from nanopinn.imaging.dce.signal import Concentration
from nanopinn.imaging.mask import load_mask
from nanopinn.io.array_volume import ArrayVolume, VolumeSource
from nanopinn.io.tables import Table, read_table

Array = NDArray[np.float64]


def read_curve(path: Path | Table, frame_times_s: Array, hematocrit: float) -> PlasmaCurve:
    """The plasma curve of a table with ``time_s`` and one of ``plasma_mM``, ``blood_mM``.

    Args:
        path: TSV/CSV, or a table in memory.
        frame_times_s: ``(t,)``, s.
        hematocrit: fraction, which converts blood to plasma.

    Raises:
        InputError: columns are missing, hold no numbers, or do not cover the scan.
    """
    table = read_table(path)
    path = table.path
    t, c, blood = _columns(table)
    if len(t) < 3 or np.any(np.diff(t) <= 0) or not np.isfinite([t, c]).all():
        raise InputError(
            "times must increase and values be finite",
            file=path,
            field="time_s",
            found=f"{len(t)} rows",
            expected="3 rows or more, in order of time",
            remedy="Correct the table.",
        )
    if not c.max() > 0:
        raise InputError(
            "the arterial input never rises",
            file=path,
            field="blood_mM" if blood else "plasma_mM",
            found=f"maximum {c.max():g}",
            expected="a positive peak, in mM",
            remedy="Correct the table.",
        )
    # one frame may be missing at the end; beyond it there is nothing to convolve with
    latest = float(frame_times_s[-2])
    if t[0] >= latest or t[-1] < latest:
        raise InputError(
            "the arterial input does not cover the scan",
            file=path,
            field="time_s",
            found=f"{t[0]:g} to {t[-1]:g} s",
            expected=(
                f"from before the bolus to {frame_times_s[-1]:g} s, on the clock of the frames"
            ),
            remedy="Extend the curve, or shift it to that clock.",
        )
    return PlasmaCurve(t, plasma_from_blood(c, hematocrit) if blood else c)


def _columns(table: Table) -> tuple[Array, Array, bool]:
    """Times, concentrations, and whether these are of whole blood."""
    kinds = [k for k in ("plasma_mM", "blood_mM") if k in table.header]
    if "time_s" not in table.header or len(kinds) != 1 or not table.rows:
        raise InputError(
            "the arterial input lacks its columns",
            file=table.path,
            field="header",
            found=", ".join(table.header) if table.header and table.rows else "no rows",
            expected="time_s and one of plasma_mM, blood_mM",
            remedy="Give the columns these names.",
        )
    t, c = (
        table.numbers(k, "the arterial input holds a value that is not a number")
        for k in ("time_s", kinds[0])
    )
    return t, c, kinds[0] == "blood_mM"


#: Voxels of an automatic arterial input: enough to average noise, few enough to stay inside a
#: vessel.
MIN_ARTERY_VOXELS, MAX_ARTERY_VOXELS = 3, 30
#: Detection limit of a bolus, peak over noise.
LOWEST_PEAK_TO_NOISE = 8.0
#: Least ratio of the first pass to the recirculating concentration (Parker's curve: 5); below it
#: the curve is likely that of a vein or tissue.
LOWEST_PEAK_TO_TAIL = 1.5


@dataclass(frozen=True)
class ArterialVoxels:
    """Voxels in which an arterial input was measured.

    Attributes:
        mask: ``(x, y, z)``.
        blood_mM: mean concentration in blood, ``(t,)``, mM.
        std_mM: standard deviation over the voxels, ``(t,)``, mM.
        peak_to_noise: peak over the noise of the baseline.
        peak_to_tail: peak over the concentration at the end of the scan.
        auc_to_parker_ratio: AUC over that of Parker's curve at the same arrival; far from 1 it
            indicates partial volume, inflow or another dose.
        is_automatic: detected automatically, not from a mask.
    """

    mask: NDArray[np.bool_]
    blood_mM: Array
    std_mM: Array
    peak_to_noise: float
    peak_to_tail: float
    auc_to_parker_ratio: float
    is_automatic: bool


def arterial_quality(voxels: ArterialVoxels) -> dict[str, float]:
    """Figures of merit of a measured arterial input, by name."""
    return {
        "voxels": float(voxels.mask.sum()),
        "peak_mM": float(voxels.blood_mM.max()),
        "peak_to_noise": voxels.peak_to_noise,
        "peak_to_tail": voxels.peak_to_tail,
        "auc_to_parker_ratio": voxels.auc_to_parker_ratio,
    }


def describe_artery(voxels: ArterialVoxels) -> tuple[str, ...]:
    """Properties and limitations of a measured arterial input, one sentence each."""
    how = "detected automatically" if voxels.is_automatic else "given by a mask"
    notes = [
        f"The arterial input is the mean of {int(voxels.mask.sum())} voxels that were {how}: its"
        f" peak is {voxels.blood_mM.max():.2g} mM in blood, {voxels.peak_to_noise:.0f} times the"
        f" noise and {voxels.peak_to_tail:.1f} times the final concentration, and its AUC is"
        f" {voxels.auc_to_parker_ratio:.2f} of Parker's. Inflow and partial volume are not"
        " corrected."
    ]
    if voxels.peak_to_tail < LOWEST_PEAK_TO_TAIL:
        notes.append(
            "That curve has no first pass, so it may be that of a vein or tissue. A population"
            " curve may be more accurate."
        )
    if not 0.5 < voxels.auc_to_parker_ratio < 2:
        notes.append(
            "Its AUC differs from that of the Parker AIF: check the dose, inflow, and whether the"
            " vessel fills its voxels."
        )
    return tuple(notes)


def read_masked_artery(
    path: VolumeSource, blood: Concentration, frame_times_s: Array, affine: Array
) -> ArterialVoxels:
    """The mean curve of an arterial mask.

    Args:
        path: mask, a file or a volume in memory.
        blood: the series as concentration in blood.
        frame_times_s: ``(t,)``, s.
        affine: ``(4, 4)`` of the DCE grid, RAS mm.

    Raises:
        InputError: the mask cannot be used, or none of its voxels has a finite curve.
    """
    shape = (blood.mM.shape[1], blood.mM.shape[2], blood.mM.shape[3])
    mask = load_mask(path, shape, affine) & np.isfinite(blood.mM).all(axis=0)
    if not mask.any():
        raise InputError(
            "no voxel of the arterial mask has a finite concentration",
            file=path,
            field="aif",
            found="0 voxels",
            expected="a vessel that is not saturated",
            remedy="Draw another vessel, or choose a population curve.",
        )
    return _measure_artery(mask, blood, frame_times_s, is_automatic=False)


def find_artery(blood: Concentration, frame_times_s: Array) -> ArterialVoxels:
    """Detect voxels whose bolus is early, high and short (after Mouridsen 2006, MRM 55:524).

    Voxels above the detection limit are scored by the height of the peak times its height over the
    final concentration, less for a late peak. Of the best, those whose correlation with the best
    voxel exceeds 0.9 are averaged.

    Args:
        blood: the series as concentration in blood.
        frame_times_s: ``(t,)``, s.

    Raises:
        InputError: no voxel behaves like an artery.
    """
    shape = blood.mM.shape[1:]
    flat, noise = blood.mM.reshape(len(blood.mM), -1), blood.noise_sd_mM.reshape(-1)
    usable = np.flatnonzero(np.isfinite(flat).all(axis=0) & np.isfinite(noise) & (noise > 0))
    curves = flat[:, usable]
    peak, when = curves.max(axis=0), frame_times_s[curves.argmax(axis=0)]
    tail = np.median(curves[-max(3, len(curves) // 4) :], axis=0)
    high = peak > LOWEST_PEAK_TO_NOISE * noise[usable]
    if high.sum() < MIN_ARTERY_VOXELS:
        raise InputError(
            "no artery was detected",
            field="aif",
            found=(
                f"{int(high.sum())} voxels with a bolus above {LOWEST_PEAK_TO_NOISE:g} times noise"
            ),
            expected=f"{MIN_ARTERY_VOXELS} or more",
            remedy="Give a mask (mask:FILE), a curve or a population curve as `aif`.",
        )
    first = float(frame_times_s[blood.baseline[1] - 1])
    spacing = float(np.median(np.diff(frame_times_s)))
    earliest = np.quantile(when[high], 0.02)
    late = np.maximum(when - max(earliest, first) - 2 * spacing, 0.0) / (20.0 + spacing)
    sharp = peak / np.maximum(tail, 0.1 * peak)
    score = np.where(high, peak * sharp * np.exp(-(late**2)), -np.inf)
    order = np.argsort(score)[::-1][
        : int(np.clip(high.sum() // 100, MIN_ARTERY_VOXELS, MAX_ARTERY_VOXELS))
    ]
    order = order[np.isfinite(score[order])]
    alike = np.array([np.corrcoef(curves[:, order[0]], curves[:, i])[0, 1] > 0.9 for i in order])
    mask = np.zeros(flat.shape[1], dtype=bool)
    mask[usable[order[alike]]] = True
    return _measure_artery(mask.reshape(shape), blood, frame_times_s, is_automatic=True)


def _measure_artery(
    mask: NDArray[np.bool_], blood: Concentration, t: Array, *, is_automatic: bool
) -> ArterialVoxels:
    chosen = blood.mM[:, mask]
    curve = chosen.mean(axis=1)
    first, after = blood.baseline
    noise = float(max(curve[first:after].std(ddof=1), 1e-6))
    tail = float(np.median(curve[-max(3, len(curve) // 4) :]))
    reference = parker(t - t[after - 1])
    peak = float(curve.max())
    return ArterialVoxels(
        mask,
        curve,
        chosen.std(axis=1),
        peak / noise,
        peak / tail if tail > 0 else float("inf"),
        float(np.trapezoid(curve, t) / np.trapezoid(reference, t)),
        is_automatic,
    )


AIF_NAMES = (*POPULATION_CURVES, "auto")
MASK = "mask:"
#: A population curve by name, a file, ``mask:FILE``, ``auto``; an arterial mask or a table of a
#: curve in memory.
AifSource: TypeAlias = str | ArrayVolume | Table


@dataclass(frozen=True)
class ArterialInput:
    """The arterial input of a study.

    Attributes:
        curve: plasma curve on the clock of the scan.
        voxels: where it was measured; None where it was not measured in this scan.
        assumptions: one sentence each.
    """

    curve: PlasmaCurve
    voxels: ArterialVoxels | None
    assumptions: tuple[str, ...]


def is_measured_in_scan(spec: AifSource) -> bool:
    """Whether the input is measured in the scan itself."""
    if not isinstance(spec, str):
        return isinstance(spec, ArrayVolume)
    return spec == "auto" or spec.startswith(MASK)


def list_aif_files(spec: AifSource) -> list[Path | ArrayVolume | Table]:
    """Files that a choice of arterial input reads, or what it has in memory."""
    if not isinstance(spec, str):
        return [spec]
    if spec in AIF_NAMES:
        return []
    return [Path(spec.removeprefix(MASK))]


def load_aif(
    spec: AifSource,
    *,
    frame_times_s: Array,
    bolus_arrival_s: float,
    hematocrit: float,
    dose_mmol_per_kg: float = 0.1,
    blood: Concentration | None = None,
    affine: Array | None = None,
) -> ArterialInput:
    """The arterial input by its source.

    A population curve is evaluated by its formula on a fine grid from the arrival on; the times of
    a table are on the clock of the scan.

    Args:
        spec: a population curve by name, a TSV/CSV file or table, ``mask:FILE`` or an arterial
            mask, or ``auto``.
        frame_times_s: ``(t,)``, s.
        bolus_arrival_s: arrival of a population curve, s.
        hematocrit: fraction.
        dose_mmol_per_kg: scales population curves, mmol/kg.
        blood: the series as concentration in blood, for a mask and ``auto``.
        affine: ``(4, 4)`` of the DCE grid, RAS mm, for a mask.

    Raises:
        InputError: the choice is unknown, its file cannot be used, or no artery is found.
    """
    t = np.asarray(frame_times_s, dtype=np.float64)
    if isinstance(spec, Table):
        return ArterialInput(read_curve(spec, t, hematocrit), None, ())
    if isinstance(spec, str) and spec in POPULATION_CURVES:
        found = POPULATION_CURVES[spec]
        curve = found.plasma(
            arrival_s=bolus_arrival_s,
            until_s=float(t[-1]),
            hematocrit=hematocrit,
            dose_mmol_per_kg=dose_mmol_per_kg,
        )
        note = (
            f"The arterial input is {found.source}, not this subject's; an error of its scale"
            " propagates to Ktrans, ve and vp."
        )
        return ArterialInput(curve, None, (note,))
    if is_measured_in_scan(spec):
        assert blood is not None
        assert affine is not None
        voxels = (
            find_artery(blood, t)
            if spec == "auto"
            else read_masked_artery(_mask_source(spec), blood, t, affine)
        )
        curve = PlasmaCurve(t, plasma_from_blood(voxels.blood_mM, hematocrit))
        return ArterialInput(curve, voxels, describe_artery(voxels))
    assert isinstance(spec, str)
    if not Path(spec).is_file():
        raise InputError(
            "no such arterial input",
            file=spec,
            field="aif",
            found=Path(spec).name,
            expected=f"{', '.join(AIF_NAMES)}, mask:FILE, or a TSV/CSV file",
            remedy="Check the path.",
        )
    return ArterialInput(read_curve(Path(spec), t, hematocrit), None, ())


def _mask_source(spec: str | ArrayVolume) -> VolumeSource:
    """Arterial mask of ``mask:FILE``, or the one in memory."""
    return Path(spec.removeprefix(MASK)) if isinstance(spec, str) else spec
