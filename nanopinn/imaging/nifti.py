"""What a NIfTI header must say before its data are believed: kind, size, units, one geometry."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError

Array = NDArray[np.float64]
Orientation = Literal["sform", "qform"]

HEADER_BYTES = 348
_SPACE_UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 1e-3}
_TIME_UNITS_S = {0: 1.0, 8: 1.0, 16: 1e-3, 24: 1e-6}

#: Two affines are one geometry within this share of a voxel (axes) and this many mm (origin): a qform
#: stored in float32 loses up to 7e-4 near half turns.
_AXES_AGREE, _ORIGIN_AGREES_MM = 1e-3, 0.1


def parse_header(raw: bytes, path: Path) -> Any:
    """The header from the first bytes of a file.

    Raises:
        InputError: they are not the header of a single-file NIfTI-1 volume.
    """
    if len(raw) < HEADER_BYTES or raw[344:347] != b"n+1":
        raise InputError(
            "not a NIfTI-1 file", file=path, expected="a .nii or .nii.gz volume",
            remedy="Convert it, e.g. with dcm2niix.",
        )  # fmt: skip
    try:
        return nib.Nifti1Header(raw[:HEADER_BYTES], check=False)
    except Exception as error:
        raise InputError("its NIfTI header cannot be read", file=path, remedy="Export the volume again.") from error


def check_kind(header: Any, path: Path) -> None:
    """Refuse what is no 3-D or 4-D volume of real numbers in known units.

    Raises:
        InputError: dimensions, data type or units are wrong.
    """
    shape = _dimensions(header)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise InputError(
            "the volume has the wrong dimensions", file=path, field="dim",
            found="x".join(map(str, shape)) or "none", expected="3 or 4 axes, all positive",
            remedy="Export one volume or one series per file.",
        )  # fmt: skip
    try:
        dtype = header.get_data_dtype()
    except Exception as error:
        raise InputError(
            "unknown data type", file=path, field="datatype", found=int(header["datatype"]),
            remedy="Export the volume again.",
        ) from error  # fmt: skip
    if dtype.fields is not None or dtype.kind not in "fiu":
        raise InputError(
            "colour or complex data are not quantities", file=path, field="datatype", found=str(dtype),
            expected="integers or floats", remedy="Export magnitude images.",
        )  # fmt: skip
    units = int(header["xyzt_units"])
    if units & 7 not in _SPACE_UNITS_MM or units & 56 not in _TIME_UNITS_S:
        raise InputError(
            "unknown units", file=path, field="xyzt_units", found=units, expected="m, mm or um; s, ms or us",
            remedy="Correct the header.",
        )  # fmt: skip


def declared_bytes(header: Any, path: Path) -> int:
    """Size of the uncompressed file that the header promises.

    Raises:
        InputError: the data would begin inside the header or absurdly far behind it.
    """
    offset = float(header["vox_offset"]) or 352.0
    if not np.isfinite(offset) or not 352 <= offset <= 1e9:
        raise InputError(
            "the data cannot begin there", file=path, field="vox_offset", found=offset, expected=">= 352",
            remedy="Export the volume again.",
        )  # fmt: skip
    size = int(header.get_data_dtype().itemsize)
    for n in _dimensions(header):
        size *= n
    return int(offset) + size


def _dimensions(header: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in header["dim"][1 : 1 + max(0, min(7, int(header["dim"][0])))])


def frame_spacing_s(header: Any) -> float:
    """What the header holds as the spacing of the fourth axis, in s."""
    return float(header["pixdim"][4]) * _TIME_UNITS_S[int(header["xyzt_units"]) & 56]


def world_affine(header: Any, path: Path, orientation: Orientation | None) -> tuple[Array, list[str]]:
    """Voxel indices to RAS mm, and what was assumed for it.

    Raises:
        InputError: sform, qform and pixdim contradict each other while ``orientation`` chooses none, or a
            geometry is impossible.
    """
    unit = _SPACE_UNITS_MM[int(header["xyzt_units"]) & 7]
    notes = [] if int(header["xyzt_units"]) & 7 else ["units of space are not declared and are taken as mm"]
    pixdim = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64)) * unit
    if not np.isfinite(pixdim).all() or (np.asarray(header["pixdim"][1:4]) <= 0).any():
        raise InputError(
            "voxel sizes must be positive", file=path, field="pixdim",
            found=np.asarray(header["pixdim"][1:4]).tolist(), expected="three positive lengths",
            remedy="Correct the header.",
        )  # fmt: skip
    forms = _forms(header, path, unit)
    if orientation is not None and orientation not in forms:
        raise InputError(
            "the chosen orientation is not in the file", file=path, field="--orientation", found=orientation,
            expected=" or ".join(forms) or "none: the file declares no orientation", remedy="Leave it out.",
        )  # fmt: skip
    if orientation is None:
        _one_geometry(forms, pixdim, path)
    if not forms:
        notes.append("no orientation is declared: voxel axes are taken as right, anterior, superior")
        return np.diag([*pixdim, 1.0]), notes
    return forms[orientation] if orientation else next(iter(forms.values())), notes


def _forms(header: Any, path: Path, unit: float) -> dict[str, Array]:
    """The affines that the file declares, sform first, in mm."""
    found = {}
    for name, read in (("sform", header.get_sform), ("qform", header.get_qform)):
        if int(header[f"{name}_code"]) <= 0:
            continue
        try:
            affine = np.asarray(read(), dtype=np.float64)
        except Exception as error:
            raise InputError("its orientation cannot be read", file=path, field=name, remedy="Correct the header.") from error
        affine[:3] *= unit
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) <= 1e-6 * lengths.prod():
            raise InputError(
                "the affine is singular", file=path, field=name, found=np.round(affine[:3], 3).tolist(),
                expected="three independent axes", remedy="Correct the header.",
            )  # fmt: skip
        found[name] = affine
    return found


def _one_geometry(forms: dict[str, Array], pixdim: Array, path: Path) -> None:
    size = float(pixdim.max())
    if len(forms) == 2:
        s, q = forms["sform"], forms["qform"]
        axes, origin = np.abs(s[:3, :3] - q[:3, :3]).max(), np.abs(s[:3, 3] - q[:3, 3]).max()
        if axes > _AXES_AGREE * size or origin > _ORIGIN_AGREES_MM:
            raise InputError(
                "sform and qform disagree", file=path, field="sform, qform",
                found=f"sform {np.round(s[:3], 3).tolist()}, qform {np.round(q[:3], 3).tolist()}",
                expected="one geometry", remedy="Choose with --orientation sform or --orientation qform.",
            )  # fmt: skip
    for name, affine in forms.items():
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        if np.any(np.abs(lengths - pixdim) > _AXES_AGREE * pixdim):
            raise InputError(
                f"voxel sizes of pixdim and of the {name} disagree", file=path, field="pixdim",
                found=pixdim.tolist(), expected=str(np.round(lengths, 4).tolist()),
                remedy=f"Choose with --orientation {name}, or correct the header.",
            )  # fmt: skip
