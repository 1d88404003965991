"""Native T1 on the DCE grid, from a flip-angle set, inversion recovery, a map or a stated value;
and the B1 map that corrects flip angles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.acquisition import read_excitation, read_sidecar_number
from nanopinn.imaging.dce.t1_estimation import (
    MAX_T1_S,
    MIN_T1_S,
    T1FitMethod,
    fit_inversion_recovery,
    fit_variable_flip_angles,
)
from nanopinn.imaging.geometry import resample_to_grid, same_grid
from nanopinn.imaging.registration import Coregistration
from nanopinn.io.array_volume import ArrayVolume, VolumeSource, as_file
from nanopinn.io.nifti import Orientation
from nanopinn.io.volumes import read_map, read_sidecar, sidecar_path

Array = NDArray[np.float64]

#: Relative flip angles of scanners; a map in percent is a hundred times this.
_LOWEST, _HIGHEST = 0.2, 2.0


@dataclass(frozen=True)
class B1Map:
    """True over nominal flip angle on the grid of its scan.

    Attributes:
        values: ``(x, y, z)``, NaN where unknown.
        affine: ``(4, 4)`` RAS mm.
        note: how it was read, one sentence.
    """

    values: Array
    affine: Array
    note: str

    def resample_to(self, shape: tuple[int, ...], affine: Array) -> Array:
        """The map on another grid; 1 where it is not known there."""
        own = resample_to_grid(self.values, self.affine, shape, affine)
        return np.where(np.isfinite(own), own, 1.0)


def load_b1(path: VolumeSource, orientation: Orientation | None = None) -> B1Map:
    """Read a B1 map, a fraction or in percent by its median.

    Args:
        path: map, a file or a volume in memory.
        orientation: affine to use where sform and qform disagree.

    Raises:
        InputError: the median is that of neither.
    """
    values, affine, _ = read_map(path, orientation=orientation)
    known = values[np.isfinite(values) & (values > 0)]
    middle = float(np.median(known)) if known.size else float("nan")
    percent = _LOWEST * 100 <= middle <= _HIGHEST * 100
    if not percent and not _LOWEST <= middle <= _HIGHEST:
        raise InputError(
            "not a B1 map",
            file=path,
            field="values",
            found=f"median {middle:g}",
            expected="true over nominal flip angle, about 1, or about 100 in percent",
            remedy="Convert it, or leave `b1` out.",
        )
    relative = values / 100 if percent else values
    good = np.isfinite(relative) & (relative >= _LOWEST) & (relative <= _HIGHEST)
    unit = "percent" if percent else "a fraction"
    note = (
        f"The B1 map (median {middle:.3g}) is read as {unit}; outside it flip angles are nominal."
    )
    return B1Map(np.where(good, relative, np.nan), affine, note)


Shape = tuple[int, int, int]

#: A tissue's T1 lies well inside; a map in ms, or of R1, does not.
_LOWEST_MEDIAN, _HIGHEST_MEDIAN = 0.05, 5.0
_RANGE = f"{_LOWEST_MEDIAN:g} to {_HIGHEST_MEDIAN:g} s"


@dataclass(frozen=True)
class T1Source:
    """Source of native T1, exactly one of the first three.

    Attributes:
        vfa: one volume per flip angle, with ``FlipAngle`` and ``RepetitionTimeExcitation``.
        ir: one volume per inversion time, with ``InversionTime`` (s).
        t1: a value, s, or a map, s.
        method: fit of the flip-angle set.
    """

    vfa: tuple[VolumeSource, ...] = ()
    ir: tuple[VolumeSource, ...] = ()
    t1: float | VolumeSource | None = None
    method: T1FitMethod = "nonlinear"

    @property
    def name(self) -> str:
        """Name of the source for messages."""
        return "flip-angle set" if self.vfa else "inversion-recovery set" if self.ir else "T1 map"

    def files(self) -> list[Path | ArrayVolume]:
        """Every file that is read, and every volume in memory."""
        t1 = [] if self.t1 is None or isinstance(self.t1, (int, float)) else [self.t1]
        return [as_file(f) for f in (*self.vfa, *self.ir, *t1)]


@dataclass(frozen=True)
class NativeT1:
    """Native T1 on the DCE grid.

    Attributes:
        T1_s: s, ``(x, y, z)``, NaN where unknown.
        std_s: its standard deviation, s; None where none is known.
        assumptions: one sentence each.
    """

    T1_s: Array
    std_s: Array | None
    assumptions: tuple[str, ...]


@dataclass(frozen=True)
class _T1OnScanGrid:
    """T1 (s), its standard deviation and an anatomical image on the grid of the scan."""

    T1_s: Array
    std_s: Array | None
    anatomy: Array
    affine: Array
    notes: list[str]


def load_native_t1(
    given: T1Source,
    shape: Shape,
    affine: Array,
    *,
    B1: B1Map | None = None,
    orientation: Orientation | None = None,
    coregistration: Coregistration | None = None,
) -> NativeT1:
    """Native T1 on the DCE grid.

    Args:
        given: source.
        shape: of the DCE grid.
        affine: ``(4, 4)`` of the DCE grid, RAS mm.
        B1: corrects the flip angles of a set.
        orientation: affine to use where sform and qform disagree.
        coregistration: registers the scan to the DCE scan first, a set as one; None: by its affine
            alone.

    Raises:
        InputError: not exactly one source is given, or it does not hold T1.
    """
    count = bool(given.vfa) + bool(given.ir) + (given.t1 is not None)
    if count > 1:
        raise InputError(
            "T1 is given twice",
            field="vfa, ir, t1",
            found=f"{count} of them",
            expected="one",
            remedy="Give one.",
        )
    if count == 0:
        raise InputError(
            "native T1 is not known",
            field="vfa, ir, t1",
            found="none of them",
            expected="a flip-angle set, inversion times, a T1 map, or a value in s",
            remedy="Give `vfa`, `ir` or `t1` (about 1.4 s for tumours at 3 T).",
        )
    if isinstance(given.t1, (int, float)):
        return _constant_t1(float(given.t1), shape)
    own = _measure_t1(given, B1, orientation)
    placed, moved = (
        (own.affine, [])
        if coregistration is None
        else coregistration.register_scan(given.name, own.anatomy, own.affine, given.files()[0])
    )
    notes = [*own.notes, *moved]
    if not same_grid(shape, affine, own.T1_s.shape, placed) and not moved:
        notes.append(
            "T1 was measured on another grid and resampled to that of the DCE scan by the affines."
        )
    values = resample_to_grid(own.T1_s, placed, shape, affine)
    std = None if own.std_s is None else resample_to_grid(own.std_s, placed, shape, affine)
    if not np.isfinite(values).any():
        raise InputError(
            "T1 does not overlap the DCE scan",
            file=given.files()[0],
            field="affine",
            found="no voxel with a T1",
            expected="the same world coordinates",
            remedy="Check both affines.",
        )
    return NativeT1(
        values, std if std is not None and np.isfinite(std).any() else None, tuple(notes)
    )


def _measure_t1(
    given: T1Source, B1: B1Map | None, orientation: Orientation | None
) -> _T1OnScanGrid:
    if given.vfa:
        return _from_flip_angles(given.vfa, given.method, B1, orientation)
    if given.ir:
        return _from_inversion_times(given.ir, orientation)
    assert given.t1 is not None
    assert not isinstance(given.t1, (int, float))
    return _from_map(given.t1, orientation)


def _constant_t1(seconds: float, shape: Shape) -> NativeT1:
    if not _LOWEST_MEDIAN <= seconds <= _HIGHEST_MEDIAN:
        raise InputError(
            "not a T1 in seconds",
            field="t1",
            found=seconds,
            expected=_RANGE,
            remedy="Check the unit.",
        )
    return NativeT1(
        np.full(shape, seconds),
        None,
        (f"Native T1 was not measured: {seconds:g} s is assumed everywhere.",),
    )


def _from_map(path: VolumeSource, orientation: Orientation | None) -> _T1OnScanGrid:
    values, affine, _ = read_map(path, orientation=orientation)
    known = values[np.isfinite(values) & (values > 0)]
    middle = float(np.median(known)) if known.size else float("nan")
    if not _LOWEST_MEDIAN <= middle <= _HIGHEST_MEDIAN:
        raise InputError(
            "not a T1 map in seconds",
            file=path,
            field="values",
            found=f"median {middle:g}",
            expected=_RANGE,
            remedy="Convert it to seconds.",
        )
    return _T1OnScanGrid(
        np.where((values > MIN_T1_S) & (values < MAX_T1_S), values, np.nan),
        None,
        values,
        affine,
        [],
    )


def _from_flip_angles(
    vfa: Sequence[VolumeSource],
    method: T1FitMethod,
    B1: B1Map | None,
    orientation: Orientation | None,
) -> _T1OnScanGrid:
    images, affine = _stack(vfa, "flip-angle set", 2, "one flip angle cannot give T1", orientation)
    settings = [read_excitation(read_sidecar(p), sidecar_path(p)) for p in vfa]
    trs, flips = {tr for tr, _ in settings}, np.array([flip for _, flip in settings])
    if len(trs) > 1:
        raise InputError(
            "the flip-angle set has several excitation TRs",
            file=sidecar_path(vfa[0]),
            field="RepetitionTimeExcitation",
            found=sorted(trs),
            expected="one",
            remedy="Correct the sidecars.",
        )
    if len(set(flips)) < 2:
        raise InputError(
            "the flip-angle set repeats one angle",
            file=sidecar_path(vfa[0]),
            field="FlipAngle",
            found=flips.tolist(),
            expected="2 different angles or more",
            remedy="Correct the sidecars.",
        )
    notes = ["T1 is the linear fit of the flip-angle set."] if method == "linear" else []
    if B1 is None:
        notes.append(
            "Flip angles are taken as nominal: no B1 map was given. An angle 5 % off makes T1 10 %"
            " wrong."
        )
    true = flips if B1 is None else flips * B1.resample_to(images.shape[:3], affine)[..., None]
    fit = fit_variable_flip_angles(images, true, trs.pop(), method=method)
    return _T1OnScanGrid(fit.T1, fit.T1_std, images.mean(axis=-1), affine, notes)


def _from_inversion_times(
    ir: Sequence[VolumeSource], orientation: Orientation | None
) -> _T1OnScanGrid:
    images, affine = _stack(
        ir,
        "inversion-recovery set",
        4,
        "fewer than four inversion times cannot give T1",
        orientation,
    )
    fit = fit_inversion_recovery(images, np.array([_inversion_time(p) for p in ir]))
    return _T1OnScanGrid(fit.T1, fit.T1_std, images.mean(axis=-1), affine, [])


def _inversion_time(path: VolumeSource) -> float:
    side, name = read_sidecar(path), sidecar_path(path)
    return read_sidecar_number(side, "InversionTime", name, 1e-3, 20.0, "s")


def _stack(
    files: Sequence[VolumeSource],
    what: str,
    fewest: int,
    problem: str,
    orientation: Orientation | None,
) -> tuple[Array, Array]:
    """Volumes of one grid as ``(x, y, z, image)``, and its affine."""
    if len(files) < fewest:
        raise InputError(
            problem,
            file=files[0],
            field="vfa" if "flip" in what else "ir",
            found=len(files),
            expected=f"{fewest} volumes or more",
            remedy="Give every volume of the set, or `t1`.",
        )
    volumes = [read_map(p, orientation=orientation) for p in files]
    first, affine = volumes[0][0], volumes[0][1]
    for path, (image, own, _) in zip(files, volumes, strict=True):
        if not same_grid(first.shape, affine, image.shape, own):
            raise InputError(
                f"the volumes of the {what} lie on different grids",
                file=path,
                field="grid",
                found="x".join(map(str, image.shape)),
                expected="x".join(map(str, first.shape)),
                remedy="Register and resample the set first.",
            )
    return np.stack([v for v, _, _ in volumes], axis=-1), affine
