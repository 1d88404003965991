"""Checks of the inputs before a run: what is missing or wrong, as a message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanopinn.errors import InputError
from nanopinn.napari_plugin.notify import format_for_panel
from nanopinn.napari_plugin.sources import LayerOrFile, plugin_metadata


@dataclass(frozen=True)
class InputCheck:
    """Result of a check.

    Attributes:
        usable: Whether the input can be used.
        message: Message to show; empty if there is none.
    """

    usable: bool
    message: str


#: Result for an optional input that is not given.
NO_MESSAGE = InputCheck(True, "")


#: Check of a missing series beside a pH map or Z-spectra.
PH_WITHOUT_SERIES = InputCheck(
    False, "Required for kinetic maps and fits; without it the Maps tab computes the pH alone."
)


def check_series(source: LayerOrFile | None, overrides: Mapping[str, Any]) -> InputCheck:
    """Check axes, frames, timing, TR and flip angle of the dynamic series."""
    if source is None:
        return InputCheck(
            False, "Required: a series (t, z, y, x). File > Open Sample > nanopinn has an example."
        )
    wrong = _check_image_axes(source, (4,), "a series has four axes (t, z, y, x)")
    if wrong is not None:
        return wrong
    from nanopinn.imaging.acquisition import load_acquisition

    frames = shape_of(source)[0]
    if frames < 6:
        return InputCheck(False, f"The series has {frames} frames; at least 6 are required.")
    try:
        found = load_acquisition(_path(source), frames, _pixdim4(source), overrides)
    except InputError as error:
        return InputCheck(False, format_for_panel(error))
    t = found.frame_times_s
    if found.is_concentration:
        return InputCheck(True, f"{frames} frames, {t[0]:g} to {t[-1]:g} s; concentration in mM.")
    scan = f"TR {found.repetition_time_s * 1e3:.3g} ms, flip angle {found.flip_angle_deg:g} degrees"
    return InputCheck(True, f"{frames} frames, {t[0]:g} to {t[-1]:g} s; {scan}.")


def check_ph(source: LayerOrFile | None, assumed: str) -> InputCheck:
    """Check the pH map or the Z-spectra."""
    if source is None:
        if assumed.strip():
            return InputCheck(True, "One value for the whole tumour.")
        return InputCheck(True, "The fit needs a pH: a map, Z-spectra, or a value below.")
    wrong = _check_image_axes(source, (3, 4, 5), "a pH map has three axes, Z-spectra have four")
    if wrong is not None:
        return wrong
    return InputCheck(
        True, "This is a pH map." if len(shape_of(source)) == 3 else "These are Z-spectra."
    )


def check_mask(source: LayerOrFile | None, series: LayerOrFile | None) -> InputCheck:
    """Check the tumour mask."""
    if source is None:
        return InputCheck(True, "Automatic: the largest enhancing region. It is reported.")
    try:
        shape = shape_of(source)
    except InputError as error:
        return InputCheck(False, format_for_panel(error))
    if len(shape) < 3:
        return InputCheck(False, f"{source.name} has {len(shape)} axes; a mask has three.")
    if source.layer is not None and not np.asarray(source.layer.data).any():
        return InputCheck(False, f"{source.name} is empty. Paint the tumour first.")
    if series is None or shape[-3:] == shape_of(series)[-3:]:
        return NO_MESSAGE
    return InputCheck(True, "The mask is on another grid than the series and is resampled.")


def check_volumes(sources: list[LayerOrFile], what: str, key: str) -> InputCheck:
    """Check volumes that each need a key in their sidecar."""
    from nanopinn.io.volumes import read_sidecar

    for s in sources:
        wrong = _check_image_axes(s, (3,), f"each of the {what} has three axes (z, y, x)")
        if wrong is not None:
            return wrong
        side = (
            plugin_metadata(s.layer).get("sidecar")
            if s.layer is not None
            else read_sidecar(_path(s))
        )
        if key not in (side or {}):
            return InputCheck(
                False, f"{s.name} lacks {key}. Add it to the JSON sidecar of the file."
            )
    return InputCheck(True, f"{len(sources)} volumes." if sources else "")


def check_t1(sources: list[LayerOrFile], value: str) -> InputCheck:
    """Check the native T1: a flip-angle set or a value."""
    if sources:
        found = check_volumes(sources, "flip-angle set", "FlipAngle")
        return (
            InputCheck(True, f"From the flip-angle set: {found.message}") if found.usable else found
        )
    if not value.strip():
        return InputCheck(True, "Without T1 a default value is assumed and reported.")
    try:
        good = 0.05 < float(value) < 10
    except ValueError:
        good = False
    return InputCheck(good, "" if good else "T1 is a number in s, such as 1.4.")


def shape_of(source: LayerOrFile) -> tuple[int, ...]:
    """Shape of an input in napari's order of axes.

    Raises:
        InputError: The file cannot be read.
    """
    if source.layer is not None:
        return tuple(int(n) for n in source.layer.data.shape)
    path = _path(source)
    try:
        shape: tuple[int, ...] = tuple(int(n) for n in _nifti(path).shape)
    except Exception as error:
        raise InputError(
            "not a readable NIfTI file", file=path, remedy="Choose a .nii or .nii.gz file."
        ) from error
    return shape[::-1]


def _check_image_axes(
    source: LayerOrFile, axes: tuple[int, ...], expected: str
) -> InputCheck | None:
    """Message if a source is not an image with one of these numbers of axes; otherwise None."""
    kind = "image" if source.layer is None else source.layer._type_string
    if kind != "image":
        return InputCheck(
            False, f"{source.name} is a {kind} layer, which holds no signal. Choose an image."
        )
    try:
        found = len(shape_of(source))
    except InputError as error:
        return InputCheck(False, format_for_panel(error))
    return (
        None if found in axes else InputCheck(False, f"{source.name} has {found} axes; {expected}.")
    )


def _path(source: LayerOrFile) -> Path:
    known = plugin_metadata(source.layer)
    return source.file or Path(known.get("file", f"{source.name}.nii"))


def _pixdim4(source: LayerOrFile) -> float:
    """Frame spacing in the header, s."""
    if source.layer is not None:
        units = str(source.layer.units[0]) if len(source.layer.units) == 4 else ""
        return float(source.layer.scale[0]) if units in ("s", "second") else float("nan")
    from nanopinn.io.nifti import frame_spacing_s

    return frame_spacing_s(_nifti(_path(source)).header)


def _nifti(path: Path) -> Any:
    """Open a file without reading its data."""
    import nibabel as nib

    return nib.Nifti1Image.from_filename(path)
