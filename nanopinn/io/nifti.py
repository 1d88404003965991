"""Checks of a NIfTI header before its data are read: format, size, units and geometry."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError

Array = NDArray[np.float64]
Orientation = Literal["sform", "qform"]

HEADER_BYTES = 348
#: Largest number of voxels of a volume or series: 2 GiB as float64; a fit needs several times it.
MAX_VOXELS = 2**28
#: Largest number of voxels (0.5 GiB as float64) of a gzip file with less than one byte per hundred
#: voxels. Images compress less; files made to exhaust the memory compress more.
MAX_COMPRESSED_VOXELS, _MAX_VOXELS_PER_BYTE = 2**26, 100
#: Largest offset of the data behind header extensions, bytes.
_MAX_DATA_OFFSET = 2**26
#: Range of voxel sizes and largest coordinate of tissue in a scanner, mm; other values come from
#: another unit.
_SMALLEST_MM, _LARGEST_MM, _MAX_ORIGIN_MM = 0.999e-3, 100.0, 1e5
_SPACE_UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 1e-3}
_TIME_UNITS_S = {0: 1.0, 8: 1.0, 16: 1e-3, 24: 1e-6}

#: Tolerances within which two affines are the same, as a share of a voxel (axes) and in mm
#: (origin): a qform stored in float32 loses up to 7e-4 near half turns.
_AXES_TOLERANCE, _ORIGIN_TOLERANCE_MM = 1e-3, 0.1


def parse_header(raw: bytes, path: Path) -> Any:
    """Parse the header from the first bytes of a file.

    Raises:
        InputError: they are not the header of a single-file NIfTI-1 volume.
    """
    if len(raw) < HEADER_BYTES or raw[344:347] != b"n+1":
        raise InputError(
            "not a NIfTI-1 file",
            file=path,
            found=_identify_other_format(raw),
            expected="a .nii or .nii.gz volume",
            remedy="Convert it, e.g. with dcm2niix.",
        )
    try:
        header = nib.Nifti1Header(raw[:HEADER_BYTES], check=False)
    except Exception as error:
        raise InputError(
            "its NIfTI header cannot be read", file=path, remedy="Export the volume again."
        ) from error
    if int(header["sizeof_hdr"]) != HEADER_BYTES:
        raise InputError(
            "the header is corrupt",
            file=path,
            field="sizeof_hdr",
            found=int(header["sizeof_hdr"]),
            expected=str(HEADER_BYTES),
            remedy="Copy or export the volume again.",
        )
    if float(header["pixdim"][0]) == 0:
        header["pixdim"][0] = 1  # as the standard reads a zero
    return header


def _identify_other_format(raw: bytes) -> str | None:
    """Name of another format that is often given by mistake."""
    if raw[4:7] == b"n+2" or raw[4:7] == b"ni2":
        return "NIfTI-2"
    if raw[344:347] == b"ni1":
        return "the header of a .hdr/.img pair"
    if raw[128:132] == b"DICM":
        return "DICOM"
    return "nothing" if not raw else None


def check_volume_header(header: Any, path: Path) -> None:
    """Refuse a header that is not of a 3-D or 4-D volume of real numbers in known units.

    Raises:
        InputError: dimensions, data type or units are wrong.
    """
    shape = read_shape(header)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise InputError(
            "the volume has the wrong dimensions",
            file=path,
            field="dim",
            found="x".join(map(str, shape)) or "none",
            expected="3 or 4 axes, all positive",
            remedy="Export one volume or one series per file.",
        )
    try:
        dtype = header.get_data_dtype()
    except Exception as error:
        raise InputError(
            "unknown data type",
            file=path,
            field="datatype",
            found=int(header["datatype"]),
            remedy="Export the volume again.",
        ) from error
    if dtype.fields is not None or dtype.kind not in "fiu":
        raise InputError(
            "colour or complex data are not supported",
            file=path,
            field="datatype",
            found=str(dtype),
            expected="integers or floats",
            remedy="Export magnitude images.",
        )
    if int(header["bitpix"]) != 8 * dtype.itemsize:
        raise InputError(
            "data type and bits per voxel contradict each other",
            file=path,
            field="datatype, bitpix",
            found=f"{dtype} and {int(header['bitpix'])}",
            expected=f"{8 * dtype.itemsize} bits",
            remedy="Export the volume again.",
        )
    if (voxels := _count_voxels(header)) > MAX_VOXELS:
        raise InputError(
            "the volume is too large",
            file=path,
            field="dim",
            found=f"{'x'.join(map(str, shape))}, {voxels} voxels",
            expected=f"at most {MAX_VOXELS} voxels, frames included",
            remedy="Crop it to the tumour and its surroundings, or average frames.",
        )
    units = int(header["xyzt_units"])
    if units & 7 not in _SPACE_UNITS_MM or units & 56 not in _TIME_UNITS_S:
        raise InputError(
            "unknown units",
            file=path,
            field="xyzt_units",
            found=units,
            expected="m, mm or um; s, ms or us",
            remedy="Correct the header.",
        )


def data_offset(header: Any, path: Path) -> int:
    """Offset of the data in the file, bytes.

    Raises:
        InputError: it lies inside the header, too far behind it, or is not a whole number.
    """
    offset = float(header["vox_offset"]) or 352.0
    if not np.isfinite(offset) or not 352 <= offset <= _MAX_DATA_OFFSET or offset != int(offset):
        raise InputError(
            "the offset of the data is impossible",
            file=path,
            field="vox_offset",
            found=offset,
            expected=f"352 to {_MAX_DATA_OFFSET}, a whole number",
            remedy="Export the volume again.",
        )
    return int(offset)


def check_compression_ratio(header: Any, path: Path, packed_bytes: int) -> None:
    """Refuse a compressed file that is too small for the image it declares.

    Args:
        header: of the volume.
        path: the file that errors name.
        packed_bytes: size of the compressed file, bytes.

    Raises:
        InputError: the ratio is beyond that of any image.
    """
    voxels = _count_voxels(header)
    if voxels > MAX_COMPRESSED_VOXELS and packed_bytes * _MAX_VOXELS_PER_BYTE < voxels:
        raise InputError(
            "the compressed file is too small for an image of that size",
            file=path,
            field="dim, size",
            found=f"{voxels} voxels in {packed_bytes} bytes",
            expected=(
                f"at most {MAX_COMPRESSED_VOXELS} voxels, or a byte for every"
                f" {_MAX_VOXELS_PER_BYTE}"
            ),
            remedy="Crop the volume to the tumour and its surroundings, or store it uncompressed.",
        )


def scaling(header: Any, path: Path) -> tuple[float, float]:
    """Slope and intercept from stored to true values.

    A slope of 0, or NaN as some programs write it, means no scaling.

    Raises:
        InputError: they are not finite, or an intercept is stated without a slope.
    """
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or (np.isnan(slope) and (np.isnan(intercept) or intercept == 0)):
        return 1.0, 0.0
    if not np.isfinite(slope) or not np.isfinite(intercept):
        raise InputError(
            "the scaling of the values is not finite",
            file=path,
            field="scl_slope, scl_inter",
            found=f"{slope} and {intercept}",
            expected="two finite numbers",
            remedy="Export the volume again.",
        )
    return slope, intercept


def _count_voxels(header: Any) -> int:
    return math.prod(read_shape(header))


def read_shape(header: Any) -> tuple[int, ...]:
    """Sizes of all axes as the header declares them."""
    return tuple(int(n) for n in header["dim"][1 : 1 + max(0, min(7, int(header["dim"][0])))])


def frame_spacing_s(header: Any) -> float:
    """Spacing of the fourth axis by the header, s."""
    return float(header["pixdim"][4]) * _TIME_UNITS_S[int(header["xyzt_units"]) & 56]


def world_affine(
    header: Any, path: Path, orientation: Orientation | None
) -> tuple[Array, list[str]]:
    """Affine from voxel indices to RAS mm, and sentences on assumptions.

    Args:
        header: of the volume.
        path: the file that errors name.
        orientation: ``sform`` or ``qform``; None requires them to agree.

    Raises:
        InputError: sform, qform and pixdim contradict each other and ``orientation`` chooses none,
            or a geometry is impossible.
    """
    unit = _SPACE_UNITS_MM[int(header["xyzt_units"]) & 7]
    notes = (
        []
        if int(header["xyzt_units"]) & 7
        else ["units of space are not declared and are taken as mm"]
    )
    pixdim = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64)) * unit
    if not np.isfinite(pixdim).all() or (np.asarray(header["pixdim"][1:4]) <= 0).any():
        raise InputError(
            "voxel sizes must be positive",
            file=path,
            field="pixdim",
            found=np.asarray(header["pixdim"][1:4]).tolist(),
            expected="three positive lengths",
            remedy="Correct the header.",
        )
    if not _SMALLEST_MM <= pixdim.min() <= pixdim.max() <= _LARGEST_MM:
        raise InputError(
            "the voxel sizes are not those of tissue",
            file=path,
            field="pixdim, xyzt_units",
            found=f"{pixdim.tolist()} mm",
            expected=f"{_SMALLEST_MM:g} to {_LARGEST_MM:g} mm",
            remedy="Correct the unit of space in the header.",
        )
    forms = _read_affines(header, path, unit)
    if orientation is not None and orientation not in forms:
        raise InputError(
            "the file does not declare the chosen orientation",
            file=path,
            field="orientation",
            found=orientation,
            expected=" or ".join(forms) or "none: the file declares no orientation",
            remedy="Leave it out.",
        )
    if orientation is None:
        _check_consistent_geometry(forms, pixdim, path)
    if not forms:
        notes.append(
            "no orientation is declared: voxel axes are taken as right, anterior, superior"
        )
        return np.diag([*pixdim, 1.0]), notes
    return forms[orientation] if orientation else next(iter(forms.values())), notes


def _read_affines(header: Any, path: Path, unit: float) -> dict[str, Array]:
    """Affines that the header declares, sform first, in mm."""
    found = {}
    for name, read in (("sform", header.get_sform), ("qform", header.get_qform)):
        if int(header[f"{name}_code"]) <= 0:
            continue
        try:
            affine = np.asarray(read(), dtype=np.float64)
        except Exception as error:
            raise InputError(
                "its orientation cannot be read",
                file=path,
                field=name,
                remedy="Correct the header.",
            ) from error
        with np.errstate(over="ignore", invalid="ignore"):
            affine[:3] *= unit
        check_affine(affine, path, name)
        found[name] = affine
    return found


def check_affine(affine: Array, path: Path, field: str) -> None:
    """Refuse an affine (RAS mm) that is impossible for a scan.

    Args:
        affine: ``(4, 4)``.
        path: file, or argument, that the refusal names.
        field: what the affine is there.

    Raises:
        InputError: it is not finite, singular, or of impossible size or origin.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        volume = abs(np.linalg.det(affine[:3, :3]))
    if not np.isfinite(affine).all() or not np.isfinite(volume) or volume <= 1e-6 * lengths.prod():
        raise InputError(
            "the affine is singular",
            file=path,
            field=field,
            found=np.round(affine[:3], 3).tolist(),
            expected="three independent axes",
            remedy="Correct the header.",
        )
    if (
        not lengths.max() <= _LARGEST_MM
        or not lengths.min() >= _SMALLEST_MM
        or np.abs(affine[:3, 3]).max() > _MAX_ORIGIN_MM
    ):
        raise InputError(
            "the affine lies outside any scanner",
            file=path,
            field=field,
            found=np.round(affine[:3], 3).tolist(),
            expected=(
                f"voxels of {_SMALLEST_MM:g} to {_LARGEST_MM:g} mm, within"
                f" {_MAX_ORIGIN_MM / 1e3:g} m"
            ),
            remedy="Correct the header.",
        )


def _check_consistent_geometry(forms: dict[str, Array], pixdim: Array, path: Path) -> None:
    """Refuse affines that differ from each other or from the voxel sizes."""
    size = float(pixdim.max())
    if len(forms) == 2:
        s, q = forms["sform"], forms["qform"]
        axes, origin = np.abs(s[:3, :3] - q[:3, :3]).max(), np.abs(s[:3, 3] - q[:3, 3]).max()
        if axes > _AXES_TOLERANCE * size or origin > _ORIGIN_TOLERANCE_MM:
            raise InputError(
                "sform and qform disagree",
                file=path,
                field="sform, qform",
                found=f"sform {np.round(s[:3], 3).tolist()}, qform {np.round(q[:3], 3).tolist()}",
                expected="one geometry",
                remedy="Choose one: `orientation` 'sform' or 'qform'.",
            )
    for name, affine in forms.items():
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        if np.any(np.abs(lengths - pixdim) > _AXES_TOLERANCE * pixdim):
            raise InputError(
                f"voxel sizes of pixdim and of the {name} disagree",
                file=path,
                field="pixdim",
                found=pixdim.tolist(),
                expected=str(np.round(lengths, 4).tolist()),
                remedy=f"Choose it by `orientation` '{name}', or correct the header.",
            )
