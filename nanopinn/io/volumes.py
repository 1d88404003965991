"""Reading and writing of NIfTI volumes with their sidecars, and atomic writing of files.

NIfTI headers are not trusted: the size that a header declares is compared with the bytes of the
file before memory is allocated. Torch and monai are imported where a MetaTensor is made, because
the napari plugin shows maps without them.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError, OutputError
from nanopinn.io.array_volume import ArrayVolume, VolumeSource
from nanopinn.io.nifti import (
    HEADER_BYTES,
    Orientation,
    check_compression_ratio,
    check_volume_header,
    data_offset,
    frame_spacing_s,
    parse_header,
    read_shape,
    scaling,
    world_affine,
)
from nanopinn.io.safe_open import open_regular_file, read_json

if TYPE_CHECKING:
    from monai.data import MetaTensor

_CHUNK = 1 << 20
_READ_ERRORS = (OSError, EOFError, zlib.error)


def read_volume(path: VolumeSource, *, orientation: Orientation | None = None) -> MetaTensor:
    """Read a 3-D or 4-D volume as a MetaTensor.

    Args:
        path: ``.nii`` or ``.nii.gz``, or a volume in memory.
        orientation: affine to use where sform and qform disagree.

    Returns:
        ``(x, y, z)`` or ``(x, y, z, t)``, float64, with ``.affine`` to RAS mm and ``.meta`` as
        the third value of :func:`read_array`.

    Raises:
        InputError: as :func:`read_array`.
    """
    import torch
    from monai.data import MetaTensor

    data, affine, meta = read_array(path, orientation=orientation)
    return MetaTensor(torch.as_tensor(data), affine=torch.as_tensor(affine), meta=meta)


def read_array(
    path: VolumeSource, *, orientation: Orientation | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[str, Any]]:
    """Read a 3-D or 4-D NIfTI volume, or copy one that is in memory.

    Args:
        path: ``.nii`` or ``.nii.gz``, or a volume in memory.
        orientation: affine to use where sform and qform disagree.

    Returns:
        Values ``(x, y, z)`` or ``(x, y, z, t)``, float64; affine ``(4, 4)`` to RAS mm; and a
        dictionary of ``spacing_mm``, ``pixdim4_s`` (NaN if none) and ``notes`` (assumptions made
        in reading).

    Raises:
        InputError: the file is missing, is not NIfTI, is truncated or corrupt, its geometry is
            invalid or contradictory, its units are unknown, or it contains no finite number.
    """
    if isinstance(path, ArrayVolume):
        data, affine, notes = _copy_values(path), path.affine.copy(), list(path.notes)
        header = None
    else:
        path = Path(path)
        header = read_header(path)
        affine, notes = world_affine(header, path, orientation)
        _check_file_size(path, header)
        data = _read_values(path, header).reshape(read_shape(header), order="F")
    flat = data.reshape(-1, order="F")
    if not any(np.isfinite(flat[at : at + _CHUNK]).any() for at in range(0, len(flat), _CHUNK)):
        raise InputError(
            "every voxel is NaN or infinite",
            file=path,
            field="values",
            found="no finite value",
            expected="numbers",
            remedy="Export the volume again.",
        )
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    spacing = path.frame_spacing_s if isinstance(path, ArrayVolume) else float("nan")
    if header is not None and data.ndim == 4:
        spacing = frame_spacing_s(header)
    meta = {
        "spacing_mm": tuple(float(n) for n in np.linalg.norm(affine[:3, :3], axis=0)),
        "pixdim4_s": spacing,
        "notes": notes,
    }
    return data, affine, meta


def _copy_values(volume: ArrayVolume) -> NDArray[np.float64]:
    """Values of a volume in memory, in the order of a file, so that sums round alike."""
    return np.array(volume.values, dtype=np.float64, order="F")


def read_map(
    path: VolumeSource, *, orientation: Orientation | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64], MetaTensor]:
    """Read one 3-D volume.

    Args:
        path: ``.nii`` or ``.nii.gz``, or a volume in memory.
        orientation: affine to use where sform and qform disagree.

    Returns:
        Values ``(x, y, z)``, affine ``(4, 4)`` to RAS mm, and the volume itself.

    Raises:
        InputError: as :func:`read_volume`, or it is not 3-D.
    """
    volume = read_volume(path, orientation=orientation)
    if volume.ndim != 3:
        raise InputError(
            "the volume has the wrong dimensions",
            file=path,
            field="dimensions",
            found="x".join(map(str, volume.shape)),
            expected="3 axes (x, y, z)",
            remedy="Give one 3-D volume per file.",
        )
    return (
        np.asarray(volume.numpy(), dtype=np.float64),
        np.asarray(volume.affine, dtype=np.float64),
        volume,
    )


def read_header(path: Path) -> Any:
    """Read and check the header of a NIfTI volume, without its data.

    Raises:
        InputError: there is no file, or its header is not that of a volume or series of real
            numbers.
    """
    with open_regular_file(path) as file, _open_decompressed(file) as stream:
        header = parse_header(_first_bytes(stream, path), path)
    check_volume_header(header, path)
    return header


def _open_decompressed(file: BinaryIO) -> BinaryIO:
    """Uncompressed stream of a file, whose compression is detected by its first bytes."""
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file


def _first_bytes(stream: BinaryIO, path: Path) -> bytes:
    """Bytes of the header."""
    try:
        return stream.read(HEADER_BYTES)
    except _READ_ERRORS as error:
        raise _corruption_error(path, "not even a header", "a NIfTI volume") from error


def _check_file_size(path: Path, header: Any) -> None:
    """Compare the declared size with the size of the file, without allocating memory for either."""
    declared, present = (
        data_offset(header, path)
        + math.prod(read_shape(header)) * header.get_data_dtype().itemsize,
        0,
    )
    try:
        with open_regular_file(path) as file, _open_decompressed(file) as stream:
            if stream is not file:
                check_compression_ratio(header, path, os.fstat(file.fileno()).st_size)
            # to the end, so that the checksum of a gzip file is checked, but not far beyond
            while present <= declared + 64 * _CHUNK and (chunk := stream.read(_CHUNK)):
                present += len(chunk)
    except _READ_ERRORS as error:
        raise _corruption_error(path, f"{present} bytes readable", f"{declared} bytes") from error
    if present < declared:
        raise InputError(
            "the file is truncated",
            file=path,
            field="size",
            found=f"{present} bytes",
            expected=f"{declared} bytes",
            remedy="Copy or export the file again.",
        )


def _corruption_error(path: Path, found: str, expected: str) -> InputError:
    """Error of a compressed file that does not unpack."""
    return InputError(
        "the compressed file is truncated or corrupt",
        file=path,
        field="gzip",
        found=found,
        expected=expected,
        remedy="Copy or export the file again.",
    )


def _read_values(path: Path, header: Any) -> NDArray[np.float64]:
    """Scaled values ``(n,)`` in the order of a file whose size was checked, read in pieces."""
    (slope, intercept), dtype = scaling(header, path), header.get_data_dtype()
    values = np.empty(math.prod(read_shape(header)), dtype=np.float64)
    step = _CHUNK // dtype.itemsize
    try:
        with (
            open_regular_file(path) as file,
            _open_decompressed(file) as stream,
            np.errstate(over="ignore", invalid="ignore"),
        ):
            stream.seek(data_offset(header, path))
            for at in range(0, len(values), step):
                some = values[at : at + step]
                some[:] = np.frombuffer(
                    stream.read(len(some) * dtype.itemsize), dtype=dtype, count=len(some)
                )
                if (slope, intercept) != (1.0, 0.0):
                    some *= slope
                    some += intercept
    except (*_READ_ERRORS, ValueError) as error:  # it was complete when its size was checked
        raise InputError(
            "the file changed while it was read",
            file=path,
            field="size",
            found=type(error).__name__,
            remedy="Wait until it is written, and run again.",
        ) from error
    return values


def sidecar_path(path: VolumeSource) -> Path:
    """Path of the sidecar of a volume: JSON of the same stem; in memory, the argument's name."""
    if isinstance(path, ArrayVolume):
        return Path(path.name)
    path = Path(path)
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")


def read_sidecar(path: VolumeSource) -> dict[str, Any]:
    """Read the sidecar of a volume, or return the facts of one in memory; empty if there is none.

    Raises:
        InputError: it is not a readable JSON object.
    """
    if isinstance(path, ArrayVolume):
        return dict(path.sidecar)
    side = sidecar_path(path)
    # a broken link, or a folder of that name, is an error and not an absent sidecar
    return read_json(side, "the sidecar") if os.path.lexists(side) else {}


def write_volume(
    path: str | Path,
    array: NDArray[Any],
    affine: NDArray[np.float64],
    *,
    sidecar: Mapping[str, Any] | None = None,
    frame_spacing_s: float = 0.0,
) -> None:
    """Write a volume as float32 NIfTI with its sidecar, each file atomically.

    Args:
        path: ``.nii.gz`` file.
        array: map ``(x, y, z)`` or series ``(t, x, y, z)``.
        affine: ``(4, 4)`` to RAS mm.
        sidecar: content of the JSON file beside it; None writes none.
        frame_spacing_s: for the header, s; 0 where frames are not equally spaced.

    Raises:
        OutputError: a file cannot be written.
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
    # without name and time in the gzip header the same data give the same bytes
    write_bytes(path, gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))
    if sidecar is not None:
        write_json(sidecar_path(path), sidecar)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: under a temporary name, flushed and renamed.

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


def sync_folder(folder: Path) -> None:
    """Flush a folder to the disk, so that a rename survives a power failure, where possible."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
