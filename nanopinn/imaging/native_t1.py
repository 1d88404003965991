"""Where native T1 comes from: a flip-angle set, a map, or a stated value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.acquisition import excitation
from nanopinn.imaging.geometry import resample, same_grid
from nanopinn.imaging.io import read_sidecar, read_volume, sidecar_path
from nanopinn.imaging.nifti import Orientation
from nanopinn.imaging.t1 import LONGEST_T1, SHORTEST_T1, fit_t1

Array = NDArray[np.float64]
Shape = tuple[int, int, int]

#: A tissue's T1 lies well inside; a map in ms, or of R1, does not.
_LOWEST_MEDIAN, _HIGHEST_MEDIAN = 0.05, 5.0
_RANGE = f"{_LOWEST_MEDIAN:g} to {_HIGHEST_MEDIAN:g} s"


def native_t1(
    vfa: Sequence[str | Path], t1: float | str | Path | None, shape: Shape, affine: Array,
    orientation: Orientation | None = None,
) -> tuple[Array, list[str]]:  # fmt: skip
    """Native T1 (s) on the DCE grid, ``(x, y, z)``, NaN where unknown, and what was assumed.

    Args:
        vfa: one volume per flip angle, each with its sidecar; or
        t1: seconds, or a map in seconds.
        shape, affine: the DCE grid.

    Raises:
        InputError: neither or both are given, or what is given is no T1.
    """
    if vfa and t1 is not None:
        raise InputError("T1 is given twice", field="--vfa, --t1", found="both", expected="one", remedy="Give one of the two.")
    if not vfa and t1 is None:
        raise InputError(
            "native T1 is not known", field="--vfa, --t1", found="neither",
            expected="a flip-angle set, a T1 map, or a value in s",
            remedy="Give --vfa FILE..., --t1 MAP, or --t1 SECONDS (about 1.4 for tumours at 3 T).",
        )  # fmt: skip
    if isinstance(t1, (int, float)):
        return _stated(float(t1), shape)
    values, own = _from_flip_angles(vfa, orientation) if vfa else _from_map(t1, orientation)  # type: ignore[arg-type]
    if same_grid(shape, affine, values.shape, own):
        return values, []
    on_dce = resample(values, own, shape, affine)
    if not np.isfinite(on_dce).any():
        raise InputError(
            "T1 does not overlap the DCE scan", file=vfa[0] if vfa else t1, field="affine",
            found=f"grid of {'x'.join(map(str, values.shape))}", expected="the same world coordinates",
            remedy="Check both affines.",
        )  # fmt: skip
    return on_dce, ["T1 was measured on another grid and brought to that of the DCE scan by the affines."]


def _stated(seconds: float, shape: Shape) -> tuple[Array, list[str]]:
    if not _LOWEST_MEDIAN <= seconds <= _HIGHEST_MEDIAN:
        raise InputError("not a T1 in seconds", field="--t1", found=seconds, expected=_RANGE, remedy="Check the unit.")
    return np.full(shape, seconds), [f"Native T1 was not measured: {seconds:g} s is assumed everywhere."]


def _from_map(path: str | Path, orientation: Orientation | None) -> tuple[Array, Array]:
    values, affine = _three_dimensional(path, orientation)
    known = values[np.isfinite(values) & (values > 0)]
    middle = float(np.median(known)) if known.size else float("nan")
    if not _LOWEST_MEDIAN <= middle <= _HIGHEST_MEDIAN:
        raise InputError(
            "not a T1 map in seconds", file=path, field="values", found=f"median {middle:g}", expected=_RANGE,
            remedy="Convert it to seconds.",
        )  # fmt: skip
    return np.where((values > SHORTEST_T1) & (values < LONGEST_T1), values, np.nan), affine


def _from_flip_angles(vfa: Sequence[str | Path], orientation: Orientation | None) -> tuple[Array, Array]:
    if len(vfa) < 2:
        raise InputError(
            "one flip angle cannot give T1", file=vfa[0], field="--vfa", found=len(vfa), expected="2 files or more",
            remedy="Give every volume of the set, or --t1 SECONDS.",
        )  # fmt: skip
    volumes = [_three_dimensional(p, orientation) for p in vfa]
    images, affine = [v for v, _ in volumes], volumes[0][1]
    for path, (image, own) in zip(vfa, volumes, strict=True):
        if not same_grid(images[0].shape, affine, image.shape, own):
            raise InputError(
                "the volumes of the flip-angle set lie on different grids", file=path, field="grid",
                found="x".join(map(str, image.shape)), expected="x".join(map(str, images[0].shape)),
                remedy="Register and resample the set first.",
            )  # fmt: skip
    settings = [excitation(read_sidecar(p), sidecar_path(p)) for p in vfa]
    trs, flips = {tr for tr, _ in settings}, np.array([flip for _, flip in settings])
    if len(trs) > 1:
        raise InputError(
            "the flip-angle set has several excitation TRs", file=sidecar_path(vfa[0]),
            field="RepetitionTimeExcitation", found=sorted(trs), expected="one", remedy="Correct the sidecars.",
        )  # fmt: skip
    if len(set(flips)) < 2:
        raise InputError(
            "the flip-angle set repeats one angle", file=sidecar_path(vfa[0]), field="FlipAngle",
            found=flips.tolist(), expected="2 different angles or more", remedy="Correct the sidecars.",
        )  # fmt: skip
    return fit_t1(np.stack(images, axis=-1), flips, trs.pop()).T1, affine


def _three_dimensional(path: str | Path, orientation: Orientation | None) -> tuple[Array, Array]:
    volume = read_volume(path, orientation=orientation)
    if volume.ndim != 3:
        raise InputError(
            "the volume has the wrong dimensions", file=path, field="dimensions",
            found="x".join(map(str, volume.shape)), expected="3 axes (x, y, z)",
            remedy="Give one 3-D volume per file.",
        )  # fmt: skip
    return np.asarray(volume.numpy(), dtype=np.float64), np.asarray(volume.affine, dtype=np.float64)
