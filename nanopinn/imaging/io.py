"""Reading and writing volumes: the one door between files and arrays.

A NIfTI header is not trusted: the size that it declares is compared with the bytes that are there before
anything is allocated, and geometry that contradicts itself is refused until the user chooses.
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from nanopinn.errors import InputError, OutputError

Orientation = Literal["sform", "qform"]
_SPACE_UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 1e-3}
_TIME_UNITS_S = {0: 1.0, 8: 1.0, 16: 1e-3, 24: 1e-6}
_CHUNK = 1 << 20


def read_volume(path: str | Path, *, orientation: Orientation | None = None) -> MetaTensor:
    """Read a 3-D or 4-D NIfTI volume.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        orientation: which affine to believe where sform and qform disagree.

    Returns:
        ``(x, y, z)`` or ``(x, y, z, t)``, float64, with ``.affine`` in RAS mm and ``.meta`` holding
        ``spacing_mm``, ``pixdim4_s`` (NaN if none) and ``notes`` (assumptions made in reading).

    Raises:
        InputError: the file is missing, is no NIfTI, is truncated or corrupt, its geometry is invalid or
            contradictory, its units are unknown, or it holds no finite or no varying number.
    """
    path = Path(path)
    header = _header(path)
    _check_kind(header, path)
    _check_bytes(header, path)
    image = nib.Nifti1Image.from_filename(str(path))
    affine, notes = _affine(header, path, orientation)
    data = np.asarray(image.dataobj, dtype=np.float64)
    if not np.isfinite(data).any():
        raise InputError("every voxel is NaN or infinite", file=path, remedy="Export the volume again.")
    if data.ndim == 4 and data.shape[3] == 1:
        data = data[..., 0]
    scale = _SPACE_UNITS_MM[int(header["xyzt_units"]) & 7]
    time_unit = _TIME_UNITS_S[int(header["xyzt_units"]) & 56]
    meta = {
        "spacing_mm": tuple(float(scale * np.linalg.norm(affine[:3, i]) / scale) for i in range(3)),
        "pixdim4_s": float(header["pixdim"][4]) * time_unit if data.ndim == 4 else float("nan"),
        "notes": notes,
    }
    return MetaTensor(torch.as_tensor(data), affine=torch.as_tensor(affine), meta=meta)


def _header(path: Path) -> Any:
    if not path.is_file():
        raise InputError("there is no such file", file=path, remedy="Check the path.")
    try:
        with gzip.open(path) if _is_gzip(path) else path.open("rb") as handle:
            raw = handle.read(348)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            "not readable as a gzip file", file=path, remedy="Copy or export the file again."
        ) from error
    if len(raw) < 348 or raw[344:347] not in (b"n+1", b"ni1"):
        raise InputError(
            "not a NIfTI-1 file",
            file=path,
            expected="a .nii or .nii.gz volume",
            remedy="Convert it, e.g. with dcm2niix.",
        )
    try:
        return nib.Nifti1Header(raw, check=False)
    except Exception as error:
        raise InputError("its NIfTI header cannot be read", file=path, remedy="Export the volume again.") from error


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(2) == b"\x1f\x8b"


def _check_kind(header: Any, path: Path) -> None:
    shape = tuple(int(n) for n in header["dim"][1 : 1 + max(0, min(7, int(header["dim"][0])))])
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise InputError(
            "the volume has the wrong dimensions", file=path, field="dim", found="x".join(map(str, shape)) or "none",
            expected="3 or 4 axes, all positive",
        )  # fmt: skip
    try:
        dtype = header.get_data_dtype()
    except Exception as error:
        raise InputError("unknown data type", file=path, field="datatype", found=int(header["datatype"])) from error
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


def _check_bytes(header: Any, path: Path) -> None:
    """Compare what the header declares with what is there, without trusting either with memory."""
    dims = [int(n) for n in header["dim"][1 : 1 + int(header["dim"][0])]]
    offset = float(header["vox_offset"])
    if not np.isfinite(offset) or offset < 348 or offset > 1e9:
        raise InputError(
            "the data cannot begin there", file=path, field="vox_offset", found=offset, expected=">= 352"
        )
    declared = int(offset) + int(np.prod(np.array(dims, dtype=object))) * int(header.get_data_dtype().itemsize)
    present = _uncompressed_size(path, declared) if _is_gzip(path) else path.stat().st_size
    if present < declared:
        raise InputError(
            "the file is truncated", file=path, field="size", found=f"{present} bytes", expected=f"{declared} bytes",
            remedy="Copy or export the file again.",
        )  # fmt: skip


def _uncompressed_size(path: Path, declared: int) -> int:
    """Bytes that decompress, read to the end so that the checksum counts, but never far past ``declared``."""
    size = 0
    try:
        with gzip.open(path) as handle:
            while chunk := handle.read(_CHUNK):
                size += len(chunk)
                if size > declared + 64 * _CHUNK:
                    break
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            "the compressed file is truncated or corrupt", file=path, field="gzip", found=f"{size} bytes readable",
            expected=f"{declared} bytes", remedy="Copy or export the file again.",
        ) from error  # fmt: skip
    return size


def _affine(header: Any, path: Path, orientation: Orientation | None) -> tuple[NDArray[np.float64], list[str]]:
    pixdim = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    if not np.all(np.isfinite(pixdim)) or np.any(pixdim <= 0):
        raise InputError(
            "voxel sizes must be positive",
            file=path,
            field="pixdim",
            found=pixdim.tolist(),
            remedy="Correct the header.",
        )
    unit = _SPACE_UNITS_MM[int(header["xyzt_units"]) & 7]
    notes = ["units of space are not declared and are taken as mm"] if int(header["xyzt_units"]) & 7 == 0 else []
    s_code, q_code = int(header["sform_code"]), int(header["qform_code"])
    sform = np.asarray(header.get_sform(), dtype=np.float64)
    try:
        qform = np.asarray(header.get_qform(), dtype=np.float64)
    except Exception as error:
        raise InputError("its orientation cannot be read", file=path, field="qform") from error
    if s_code > 0 and q_code > 0 and orientation is None and not _agree(sform, qform, pixdim):
        raise InputError(
            "sform and qform disagree", file=path, field="affine",
            found=f"sform {np.round(sform[:3], 3).tolist()}, qform {np.round(qform[:3], 3).tolist()}",
            expected="one geometry", remedy="Choose with --orientation sform or --orientation qform.",
        )  # fmt: skip
    if s_code > 0 and orientation != "qform":
        affine = sform
    elif q_code > 0:
        affine = qform
    else:
        affine = np.diag([*pixdim, 1.0])
        notes.append("no orientation is declared: voxel axes are taken as right, anterior, superior")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError("the affine is singular", file=path, field="affine", found=np.round(affine, 3).tolist())
    if orientation is None and np.any(np.abs(lengths - pixdim) > 1e-2 * pixdim):
        raise InputError(
            "voxel sizes of pixdim and of the affine disagree", file=path, field="pixdim", found=pixdim.tolist(),
            expected=np.round(lengths, 4).tolist().__str__(), remedy="Choose with --orientation sform or qform.",
        )  # fmt: skip
    affine = affine.copy()
    affine[:3] *= unit
    return affine, notes


def _agree(a: NDArray[np.float64], b: NDArray[np.float64], pixdim: NDArray[np.float64]) -> bool:
    rotation = np.abs(a[:3, :3] - b[:3, :3]).max() <= 1e-2 * pixdim.max()
    return bool(rotation and np.abs(a[:3, 3] - b[:3, 3]).max() <= 0.1 * max(1.0, pixdim.max()))


def sidecar_path(path: str | Path) -> Path:
    """The JSON beside a volume, of the same stem."""
    path = Path(path)
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")


def read_sidecar(path: str | Path) -> dict[str, Any]:
    """The sidecar of a volume; empty if there is none.

    Raises:
        InputError: it is no JSON object.
    """
    side = sidecar_path(path)
    if not side.is_file():
        return {}
    try:
        content = json.loads(side.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError("the sidecar is not valid JSON", file=side, remedy="Correct it.") from error
    if not isinstance(content, dict):
        raise InputError("the sidecar is not a JSON object", file=side, found=type(content).__name__)
    return content


def write_volume(
    path: str | Path, array: NDArray[Any], affine: NDArray[np.float64], *, sidecar: Mapping[str, Any] | None = None
) -> None:
    """Write a map ``(x, y, z)`` or a series ``(t, x, y, z)`` as float32 NIfTI, with its sidecar, atomically."""
    path = Path(path)
    data = np.asarray(array, dtype=np.float32)
    if data.ndim == 4:
        data = np.moveaxis(data, 0, -1)
    image = nib.Nifti1Image(data, np.asarray(affine, dtype=np.float64))
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    # no name and no time inside the gzip: the same data give the same bytes
    write_bytes(path, gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))
    if sidecar is not None:
        write_json(sidecar_path(path), sidecar)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object atomically."""
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write under a temporary name beside the target, flush, and rename.

    Raises:
        OutputError: the folder cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
        ) as f:
            temporary = f.name
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
