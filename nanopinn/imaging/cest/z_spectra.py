"""Z-spectra of a scan: reading, normalisation, smoothing and noise.

The noise is estimated from offsets where a spectrum contains direct saturation of water only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import make_smoothing_spline

from nanopinn.errors import InputError
from nanopinn.imaging.acquisition import read_sidecar_number
from nanopinn.imaging.cest.bloch import GAMMA_HZ_PER_T, Saturation
from nanopinn.imaging.dce.t1_estimation import pooled_variance
from nanopinn.io.array_volume import VolumeSource
from nanopinn.io.nifti import Orientation
from nanopinn.io.safe_open import parse_number_list
from nanopinn.io.tables import read_table
from nanopinn.io.volumes import read_sidecar, read_volume, sidecar_path

Array = NDArray[np.float64]

#: A volume saturated at least this far from water is a reference without saturation.
MIN_REFERENCE_OFFSET_PPM = 30.0
#: Signal of the reference over its 99th percentile below which a voxel is air.
_AIR = 0.08

CEST_KEYS = {
    "SaturationOffsetsPPM": "ppm, list: one per volume (or SaturationOffsetsHz, Hz)",
    "SaturationB1uT": "uT: amplitude of the saturation",
    "SaturationTimeS": "s: duration of the saturation",
    "MagneticFieldStrength": "T",
}


@dataclass(frozen=True)
class ZSpectra:
    """Normalised Z-spectra of a scan.

    Attributes:
        offsets_ppm: ``(o,)``, increasing.
        Z: signal over the reference, ``(x, y, z, o)``, NaN in air.
        reference: image without saturation, or with the least, ``(x, y, z)``.
        affine: ``(4, 4)`` to RAS mm.
        saturation: the pulse; None where it is not stated.
        assumptions: sentences for the report.
    """

    offsets_ppm: Array
    Z: Array
    reference: Array
    affine: Array
    saturation: Saturation | None
    assumptions: tuple[str, ...]


def read_spectra(
    path: VolumeSource,
    *,
    offsets_file: str | Path | None = None,
    orientation: Orientation | None = None,
) -> ZSpectra:
    """Read a 4-D series of saturated images and divide it by its references.

    Volumes saturated farther than 30 ppm from water are references. Of several in a row the last is
    used (the first are not in steady state); between references the drift is taken as linear.

    Args:
        path: the series.
        offsets_file: table of offsets that replaces those of the sidecar.
        orientation: affine to use where sform and qform disagree.

    Raises:
        InputError: offsets are missing, of unknown unit or of another count, or the series is
            neither normalised nor has a reference.
    """
    volume = read_volume(path, orientation=orientation)
    side = read_sidecar(path)
    data = np.asarray(volume.numpy(), dtype=np.float64)
    name = Path(offsets_file) if offsets_file is not None else sidecar_path(path)
    offsets = _offsets(side, offsets_file, name)
    if data.ndim != 4 or len(offsets) != data.shape[3]:
        raise InputError(
            "the number of offsets differs from the volumes",
            file=name,
            field="SaturationOffsetsPPM",
            found=f"{len(offsets)} offsets",
            expected=f"{data.shape[3] if data.ndim == 4 else 1} volumes",
            remedy="List the offset of every volume, references included.",
        )
    Z, kept, notes = _normalised(data, offsets, path)
    order = np.argsort(offsets[kept], kind="stable")
    ppm, merged = _merged(offsets[kept][order], Z[..., order])
    farthest = np.nan_to_num(data[..., int(np.argmax(np.abs(offsets)))])
    return ZSpectra(
        ppm,
        merged,
        farthest,
        np.asarray(volume.affine, dtype=np.float64),
        _saturation(side, name),
        tuple(notes),
    )


def _offsets(side: Mapping[str, Any], offsets_file: str | Path | None, name: Path) -> Array:
    """Offset of every volume, ppm, from the table or the sidecar."""
    if offsets_file is not None:
        values, unit = _from_table(Path(offsets_file))
    elif "SaturationOffsetsPPM" in side:
        values, unit = _listed(side["SaturationOffsetsPPM"], name), "ppm"
    elif "SaturationOffsetsHz" in side:
        values, unit = _listed(side["SaturationOffsetsHz"], name), "Hz"
    else:
        raise InputError(
            "the Z-spectrum has no offsets",
            file=name,
            field="SaturationOffsetsPPM",
            found="nothing",
            expected=CEST_KEYS["SaturationOffsetsPPM"],
            remedy=(
                "Write them into the sidecar, or give `cest_offsets`, a table with the header"
                " offset_ppm or offset_Hz. There is no default."
            ),
        )
    if unit == "Hz":
        values = values / (
            GAMMA_HZ_PER_T * 1e-6 * _number(side, "MagneticFieldStrength", name, 0.1, 30.0)
        )
    usual = values[np.abs(values) < MIN_REFERENCE_OFFSET_PPM]
    if len(usual) < 8 or usual.max() - usual.min() < 2:
        raise InputError(
            "these are not the offsets of a Z-spectrum",
            file=name,
            field="SaturationOffsetsPPM",
            found=f"{len(usual)} within 30 ppm",
            expected="8 or more, over 2 ppm or more",
            remedy="Check the unit: ppm, or Hz under SaturationOffsetsHz.",
        )
    return values


def _listed(listed: object, name: Path) -> Array:
    """A list of numbers in a sidecar."""
    values = parse_number_list(listed)
    if values is None:
        raise InputError(
            "offsets are not numbers",
            file=name,
            field="SaturationOffsets",
            found=listed,
            expected="a list of finite numbers",
            remedy="Correct the list.",
        )
    return values


def _from_table(path: Path) -> tuple[Array, str]:
    """Offsets of a table and their unit."""
    table = read_table(path)
    for column, unit in (("offset_ppm", "ppm"), ("offset_Hz", "Hz")):
        if table.rows and column in table.header:
            return table.numbers(column, "offsets are not numbers"), unit
    raise InputError(
        "the table of offsets does not state its unit",
        file=path,
        field="header",
        found=", ".join(table.header) if table.rows else "no rows",
        expected="offset_ppm or offset_Hz",
        remedy="Name the column by its unit.",
    )


def _saturation(side: Mapping[str, Any], name: Path) -> Saturation | None:
    """The pulse; None where neither amplitude nor duration is stated."""
    keys = ("MagneticFieldStrength", "SaturationB1uT", "SaturationTimeS")
    if not any(k in side for k in keys[1:]):
        return None
    field, amplitude, seconds = (
        _number(side, k, name, low, high)
        for k, low, high in zip(keys, (0.1, 0.05, 0.01), (30, 50, 60), strict=True)
    )
    return Saturation(field, amplitude, seconds)


def _number(side: Mapping[str, Any], key: str, name: Path, low: float, high: float) -> float:
    return read_sidecar_number(side, key, name, low, high, CEST_KEYS[key])


def _normalised(
    data: Array, offsets: Array, path: VolumeSource
) -> tuple[Array, NDArray[np.bool_], list[str]]:
    """Spectra over their reference, the volumes that are no references, and notes."""
    far = np.abs(offsets) >= MIN_REFERENCE_OFFSET_PPM
    kept = ~far
    if not far.any():
        middle = (
            np.nanpercentile(data[data > 0], [50, 99])
            if (data > 0).any()
            else np.array([np.nan, np.nan])
        )
        if not (0.2 <= middle[0] <= 1.1 and middle[1] <= 1.2):
            raise InputError(
                "the series has no reference and is not normalised",
                file=path,
                field="SaturationOffsetsPPM",
                found=f"values around {middle[0]:.3g}",
                expected="a volume beyond 30 ppm, or values of 0 to 1.1",
                remedy="Include the unsaturated volume with its offset (e.g. -300).",
            )
        return (
            np.where(np.isfinite(data) & (data > 0), data, np.nan),
            kept,
            ["The Z-spectra are already normalised."],
        )
    blocks = [i for i in np.flatnonzero(far) if i + 1 == len(far) or not far[i + 1]]
    index = np.arange(len(offsets), dtype=np.float64)
    first = data[..., blocks[0]]
    if len(blocks) == 1:
        reference = np.broadcast_to(first[..., None], data.shape)
    else:
        position = np.clip(np.searchsorted(blocks, index, side="right") - 1, 0, len(blocks) - 2)
        a, b = np.array(blocks)[position], np.array(blocks)[position + 1]
        share = np.clip((index - a) / (b - a), 0, 1)
        reference = data[..., a] * (1 - share) + data[..., b] * share
    known = np.isfinite(first)
    tissue = known & (first > _AIR * np.percentile(first[known], 99)) if known.any() else known
    if not tissue.any():
        raise InputError(
            "the reference has no signal",
            file=path,
            field="values",
            found="no voxel with signal",
            expected="an image without saturation",
            remedy="Check which volume is the reference, and the order of the offsets.",
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        Z = np.where(tissue[..., None], data / reference, np.nan)[..., kept]
    measured = Z[tissue][np.isfinite(Z[tissue])]
    low, high = np.percentile(measured, [0.5, 99.5]) if measured.size else (np.nan, np.nan)
    if not (low >= -0.05 and high <= 1.2):
        raise InputError(
            "normalised spectra lie outside 0 to 1.1",
            file=path,
            field="values",
            found=f"{low:.2g} to {high:.2g}",
            expected="0 to 1.1",
            remedy="Check which volume is the reference, and the order of the offsets.",
        )
    dropped = int(far.sum()) - len(blocks)
    return (
        Z,
        kept,
        [f"{dropped} volumes before steady state were left out."] if dropped else [],
    )


def _merged(ppm: Array, Z: Array) -> tuple[Array, Array]:
    """Spectra with repeated offsets averaged."""
    unique, inverse = np.unique(np.round(ppm, 6), return_inverse=True)
    if len(unique) == len(ppm):
        return ppm, Z
    return unique, np.stack(
        [Z[..., inverse == i].mean(axis=-1) for i in range(len(unique))], axis=-1
    )


class SplineSmoother:
    """A smoothing spline with one penalty for all spectra, as a linear map.

    The penalty is chosen by leave-one-out cross-validation over a sample of the spectra. Offsets of
    direct saturation are not scored because they would favour a spline that follows the noise of
    the other offsets.

    Args:
        offsets_ppm: ``(o,)``.
        sample: spectra ``(n, o)``.
        scored_offsets: which offsets are scored, ``(o,)``.
    """

    def __init__(
        self, offsets_ppm: Array, sample: Array, scored_offsets: NDArray[np.bool_]
    ) -> None:
        self.ppm, self._scored_offsets = offsets_ppm, scored_offsets
        # the splines of unit vectors, one per offset, give the map
        unit = np.eye(len(offsets_ppm))
        candidates = [
            make_smoothing_spline(offsets_ppm, unit, lam=penalty)
            for penalty in np.geomspace(1e-6, 1.0, 13)
        ]
        scores = [self._cross_validation_error(s(offsets_ppm), sample) for s in candidates]
        self.splines = candidates[int(np.argmin(scores))]

    def interpolation_matrix(self, ppm: Array) -> Array:
        """Matrix from values at the offsets to values at ``ppm``, ``(len(ppm), o)``."""
        return np.asarray(self.splines(ppm))

    def _cross_validation_error(self, hat: Array, sample: Array) -> float:
        error = (sample - sample @ hat.T) / np.maximum(1 - np.diag(hat), 1e-6)
        return float(np.median((error[:, self._scored_offsets] ** 2).mean(axis=-1)))


#: Beyond this many ppm from 0 direct saturation decreases by even powers of the offset.
FLANK_PPM = 2.4
#: Powers of the offset: direct saturation (0, -2), a small B0 shift (-3) and curvature (-4).
_POWERS = (0, -2, -3, -4)


def flank_noise(offsets_ppm: Array, Z: Array, amide_ppm: float) -> Array:
    """Estimate the standard deviation of one value of every spectrum.

    A polynomial in 1/offset is fitted to the side without agent; contrast of tissue there (NOE)
    counts as noise. Residuals of a smoothing spline do not measure the noise: on a coarse spectrum
    the spline has to pass through every point to follow direct saturation.

    Args:
        offsets_ppm: ``(o,)``.
        Z: spectra ``(n, o)``.
        amide_ppm: frequency of the agent, ppm; the noise is estimated on the other side of water.

    Returns:
        ``(n,)``.

    Raises:
        InputError: fewer than five offsets lie there.
    """
    flank = offsets_ppm * np.sign(amide_ppm) < -FLANK_PPM
    count = int(flank.sum())
    if count < 5:
        raise InputError(
            "the noise of the Z-spectra cannot be estimated",
            field="SaturationOffsetsPPM",
            found=f"{count} offsets below {-FLANK_PPM:g} ppm",
            expected="5 or more, on the side of water without agent",
            remedy="Measure them, e.g. at -3, -3.5, ..., -6 ppm.",
        )
    powers = _POWERS[: min(len(_POWERS), count // 2 + 1)]
    basis, _ = np.linalg.qr(np.stack([offsets_ppm[flank] ** float(p) for p in powers], axis=1))
    side = Z[:, flank]
    residual = ((side - side @ basis @ basis.T) ** 2).sum(axis=1)
    return np.asarray(
        np.sqrt(pooled_variance(residual, count - len(powers), np.isfinite(residual)))
    )
