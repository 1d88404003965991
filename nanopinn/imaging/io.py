"""Reading and writing files: the one door between the disk and arrays.

A NIfTI header is not trusted: the size that it declares is compared with the bytes that are there before
anything is allocated. Torch and monai are imported where a MetaTensor is made: a window that shows maps needs neither.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError, OutputError
from nanopinn.imaging.nifti import (
    HEADER_BYTES,
    Orientation,
    check_kind,
    declared_bytes,
    frame_spacing_s,
    parse_header,
    world_affine,
)

if TYPE_CHECKING:
    from monai.data import MetaTensor

_CHUNK = 1 << 20


def read_volume(path: str | Path, *, orientation: Orientation | None = None) -> MetaTensor:
    """Read a 3-D or 4-D NIfTI volume, as :func:`read_array` does, with its affine and all else that is known of it.

    Returns:
        ``(x, y, z)`` or ``(x, y, z, t)``, float64, with ``.affine`` in RAS mm and ``.meta``.

    Raises:
        InputError: as :func:`read_array`.
    """
    import torch
    from monai.data import MetaTensor

    data, affine, meta = read_array(path, orientation=orientation)
    return MetaTensor(torch.as_tensor(data), affine=torch.as_tensor(affine), meta=meta)


def read_array(
    path: str | Path, *, orientation: Orientation | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[str, Any]]:
    """Read a 3-D or 4-D NIfTI volume.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        orientation: which affine to believe where sform and qform disagree.

    Returns:
        Values ``(x, y, z)`` or ``(x, y, z, t)``, float64; affine to RAS mm; and ``spacing_mm``, ``pixdim4_s`` (NaN if none)
        and ``notes`` (assumptions made in reading).

    Raises:
        InputError: the file is missing, is no NIfTI, is truncated or corrupt, its geometry is invalid or
            contradictory, its units are unknown, or it holds no finite number.
    """
    path = Path(path)
    header = _header(path)
    check_kind(header, path)
    _check_bytes(header, path)
    affine, notes = world_affine(header, path, orientation)
    data = _data(path)
    if not np.isfinite(data).any():
        raise InputError(
            "every voxel is NaN or infinite", file=path, field="values", found="no finite value",
            expected="numbers", remedy="Export the volume again.",
        )  # fmt: skip
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    meta = {
        "spacing_mm": tuple(float(n) for n in np.linalg.norm(affine[:3, :3], axis=0)),
        "pixdim4_s": frame_spacing_s(header) if data.ndim == 4 else float("nan"),
        "notes": notes,
    }
    return data, affine, meta


def read_map(path: str | Path, *, orientation: Orientation | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64], MetaTensor]:
    """Values ``(x, y, z)`` and affine of one 3-D volume, and the volume itself.

    Raises:
        InputError: as :func:`read_volume`, or it is not 3-D.
    """
    volume = read_volume(path, orientation=orientation)
    if volume.ndim != 3:
        raise InputError(
            "the volume has the wrong dimensions", file=path, field="dimensions",
            found="x".join(map(str, volume.shape)), expected="3 axes (x, y, z)",
            remedy="Give one 3-D volume per file.",
        )  # fmt: skip
    return np.asarray(volume.numpy(), dtype=np.float64), np.asarray(volume.affine, dtype=np.float64), volume


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as handle:
        packed = handle.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else path.open("rb")  # type: ignore[return-value]


def _header(path: Path) -> Any:
    if not path.is_file():
        raise InputError("there is no such file", file=path, found=path.name, remedy="Check the path.")
    try:
        with _open(path) as handle:
            raw = handle.read(HEADER_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise _corrupt(path, "not even a header", "a NIfTI volume") from error
    return parse_header(raw, path)


def _check_bytes(header: Any, path: Path) -> None:
    """Compare what the header declares with what is there, without trusting either with memory."""
    declared, present = declared_bytes(header, path), 0
    try:
        with _open(path) as handle:
            # to the end, so that the checksum of a gzip counts, but never far past what is declared
            while present <= declared + 64 * _CHUNK and (chunk := handle.read(_CHUNK)):
                present += len(chunk)
    except (OSError, EOFError, zlib.error) as error:
        raise _corrupt(path, f"{present} bytes readable", f"{declared} bytes") from error
    if present < declared:
        raise InputError(
            "the file is truncated", file=path, field="size", found=f"{present} bytes",
            expected=f"{declared} bytes", remedy="Copy or export the file again.",
        )  # fmt: skip


def _corrupt(path: Path, found: str, expected: str) -> InputError:
    return InputError(
        "the compressed file is truncated or corrupt", file=path, field="gzip", found=found, expected=expected,
        remedy="Copy or export the file again.",
    )  # fmt: skip


def _data(path: Path) -> NDArray[np.float64]:
    try:
        # from the stream: the name of a file says nothing about whether it is compressed
        with _open(path) as handle:
            return np.asarray(nib.Nifti1Image.from_stream(cast(io.IOBase, handle)).dataobj, dtype=np.float64)
    except Exception as error:
        raise InputError(
            "its data cannot be read", file=path, field="header", found=type(error).__name__,
            remedy="Export the volume again.",
        ) from error  # fmt: skip


def read_text(path: Path) -> str:
    """A text file, with or without a byte-order mark.

    Raises:
        InputError: it is missing or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "not readable as text", file=path, found=type(error).__name__, expected="a UTF-8 file",
            remedy="Check the path.",
        ) from error  # fmt: skip


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
        content = json.loads(read_text(side))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError("the sidecar is not valid JSON", file=side, found=str(error), remedy="Correct it.") from error
    if not isinstance(content, dict):
        raise InputError(
            "the sidecar is not a JSON object", file=side, found=type(content).__name__, expected="an object {...}",
            remedy="Write the keys and values between braces.",
        )  # fmt: skip
    return content


def write_volume(
    path: str | Path,
    array: NDArray[Any],
    affine: NDArray[np.float64],
    *,
    sidecar: Mapping[str, Any] | None = None,
    frame_spacing_s: float = 0.0,
) -> None:
    """Write a map ``(x, y, z)`` or a series ``(t, x, y, z)`` as float32 NIfTI, with its sidecar, atomically.

    Args:
        frame_spacing_s: for the header; 0 where frames are not equally spaced.
    """
    path = Path(path)
    data = np.asarray(array, dtype=np.float32)
    if data.ndim == 4:
        data = np.moveaxis(data, 0, -1)
    image = nib.Nifti1Image(data, np.asarray(affine, dtype=np.float64))
    image.header.set_xyzt_units("mm", "sec")
    if data.ndim == 4:
        image.header["pixdim"][4] = frame_spacing_s
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
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False) as f:
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


def flush_folder(folder: Path) -> None:
    """Bring a folder's names to the disk, so that a rename outlives a loss of power; where a file system cannot, nothing."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
