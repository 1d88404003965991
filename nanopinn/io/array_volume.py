"""Volumes and tables in memory, with the facts that a file and its sidecar state.

:func:`as_volume_source` converts a volume argument to a path or an
:class:`ArrayVolume`; the readers in :mod:`nanopinn.io.volumes` accept either, so that everything
after reading is the same for files and arrays.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.io.nifti import Orientation, check_affine, frame_spacing_s, world_affine

#: Volumes that functions accept: a path, a NumPy array or torch tensor, a monai
#: MetaTensor, a nibabel image, an :class:`ArrayVolume`, or a pair of one of these and a mapping
#: with the keys of a sidecar (and ``affine``).
VolumeLike: TypeAlias = Any


@dataclass(frozen=True, eq=False)
class ArrayVolume:
    """A volume or series in memory.

    Attributes:
        name: argument that it was given for, which refusals name.
        values: ``(x, y, z)`` or ``(x, y, z, t)``.
        affine: ``(4, 4)``, voxel indices to RAS mm.
        sidecar: facts under the keys of a sidecar.
        frame_spacing_s: of the header, s; NaN if none.
        notes: assumptions made about the geometry.
    """

    name: str
    values: NDArray[Any]
    affine: NDArray[np.float64]
    sidecar: Mapping[str, Any] = field(default_factory=dict)
    frame_spacing_s: float = float("nan")
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


#: A volume as the readers take it.
VolumeSource: TypeAlias = str | Path | ArrayVolume


def as_volume_source(
    given: VolumeLike,
    name: str,
    *,
    affine: NDArray[Any] | None = None,
    shape: tuple[int, ...] | None = None,
    orientation: Orientation | None = None,
) -> VolumeSource:
    """A path as it is, and anything in memory as an :class:`ArrayVolume`.

    Args:
        given: a path; a NumPy array, torch tensor or monai MetaTensor, ``(x, y, z)`` or
            ``(t, x, y, z)``; a nibabel image, ``(x, y, z)`` or ``(x, y, z, t)``; or a pair of one
            of these and a mapping with the keys of a sidecar, and ``affine``.
        name: argument that it was given for.
        affine: ``(4, 4)`` to RAS mm, for arrays without one.
        shape: ``(x, y, z)`` that an array must have to use ``affine``; None: any.
        orientation: which affine of a nibabel image to use where sform and qform disagree.

    Raises:
        InputError: the value is not a volume of real numbers, or its affine is missing or singular.
    """
    if isinstance(given, (str, Path, ArrayVolume)):
        return given
    facts: Mapping[str, Any] = {}
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping):
        given, facts = given
    own = facts.get("affine")
    if isinstance(given, (str, Path)):
        raise InputError(
            "facts cannot be given beside a file",
            field=name,
            found=given,
            expected="an array with its facts, or a file with its sidecar",
            remedy="Write them into the sidecar.",
        )
    if isinstance(given, ArrayVolume):
        return _with_facts(given, name, facts)
    if isinstance(given, SpatialImage):
        return _with_facts(_from_nibabel(given, name, orientation), name, facts)
    meta = getattr(given, "meta", None)
    if isinstance(meta, Mapping):
        facts = {k: v for k, v in meta.items() if _is_sidecar_key(k)} | dict(facts)
        own = np.asarray(given.affine) if own is None else own
    values = _numeric_array(given, name)
    if own is None:
        own = _shared_affine(values, affine, shape, name)
    moved = np.moveaxis(values, 0, -1) if values.ndim == 4 else values
    spacing = float(meta.get("pixdim4_s", "nan")) if isinstance(meta, Mapping) else float("nan")
    return _with_facts(
        ArrayVolume(name, moved, np.eye(4), frame_spacing_s=spacing), name, {**facts, "affine": own}
    )


def as_array_volume(given: VolumeLike, name: str) -> ArrayVolume:
    """As :func:`as_volume_source`, for a volume in memory with an affine of its own.

    Raises:
        InputError: as there, or a path was given.
    """
    found = as_volume_source(given, name)
    if not isinstance(found, ArrayVolume):
        raise InputError("a path was given for a volume in memory", field=name, found=found)
    return found


def as_file(source: VolumeSource) -> Path | ArrayVolume:
    """A source for the list of all that is read: paths as paths, volumes in memory as they are."""
    return source if isinstance(source, ArrayVolume) else Path(source)


def as_json_value(fact: Any) -> Any:
    """A fact as JSON holds it: numbers and lists in place of arrays and tensors."""
    if hasattr(fact, "tolist"):
        return fact.tolist()
    if isinstance(fact, (list, tuple)):
        return [as_json_value(v) for v in fact]
    return fact


def hash_array(volume: ArrayVolume) -> str:
    """SHA-256 of a volume's values, affine and facts."""
    digest = hashlib.sha256()
    head = {"shape": volume.values.shape, "dtype": str(volume.values.dtype)}
    digest.update(json.dumps(head | dict(volume.sidecar), sort_keys=True, default=str).encode())
    digest.update(np.ascontiguousarray(volume.affine).tobytes())
    digest.update(np.asarray(volume.values).tobytes(order="F"))
    return digest.hexdigest()


def _is_sidecar_key(key: object) -> bool:
    """Keys of sidecars have capitals; those of monai and of NIfTI headers have none."""
    return isinstance(key, str) and key.isalnum() and not key.islower()


def _numeric_array(given: Any, name: str) -> NDArray[Any]:
    if hasattr(given, "detach"):
        given = given.detach().cpu().numpy()
    values = np.asarray(given)
    if values.dtype.kind not in "biuf":
        raise InputError(
            "the array does not hold real numbers",
            field=name,
            found=f"{type(given).__name__} of {values.dtype}",
            expected="a path, an array, a tensor, a MetaTensor or a nibabel image",
            remedy="Give one of these.",
        )
    if values.ndim not in (3, 4) or 0 in values.shape:
        raise InputError(
            "the array has the wrong dimensions",
            field=name,
            found="x".join(map(str, values.shape)) or "a number",
            expected="(x, y, z), or (t, x, y, z) for a series",
            remedy="Move its axes into this order.",
        )
    return values


def _shared_affine(
    values: NDArray[Any],
    affine: NDArray[Any] | None,
    shape: tuple[int, ...] | None,
    name: str,
) -> NDArray[Any]:
    if affine is None:
        raise InputError(
            "the array has no affine",
            field=name,
            found="an array without geometry",
            expected="the matrix (4, 4) from voxel indices to RAS mm",
            remedy="Give `affine`, or a MetaTensor or nibabel image, which have one.",
        )
    if shape is not None and values.shape[-3:] != shape:
        raise InputError(
            "the array has another shape than the DCE series",
            field=name,
            found="x".join(map(str, values.shape[-3:])),
            expected="x".join(map(str, shape)),
            remedy='Give its own affine with it: (array, {"affine": matrix}).',
        )
    return affine


def _from_nibabel(image: SpatialImage, name: str, orientation: Orientation | None) -> ArrayVolume:
    header = image.header
    values = np.asanyarray(image.dataobj)
    notes: list[str] = []
    spacing = float("nan")
    if isinstance(header, Nifti1Header):
        affine, notes = world_affine(header, Path(name), orientation)
        spacing = frame_spacing_s(header) if values.ndim == 4 else spacing
    else:
        affine = np.asarray(image.affine, dtype=np.float64)
    _numeric_array(values, name)
    return ArrayVolume(name, values, affine, {}, spacing, tuple(notes))


def _with_facts(volume: ArrayVolume, name: str, facts: Mapping[str, Any]) -> ArrayVolume:
    """The volume under the name of its argument, with its affine checked and more facts."""
    affine = np.asarray(facts.get("affine", volume.affine), dtype=np.float64)
    if affine.shape != (4, 4):
        raise InputError(
            "the affine has the wrong shape",
            field=name,
            found="x".join(map(str, affine.shape)),
            expected="(4, 4), voxel indices to RAS mm",
            remedy="Give the whole matrix.",
        )
    check_affine(affine, Path(name), "affine")
    side = {k: as_json_value(v) for k, v in facts.items() if k != "affine"}
    return ArrayVolume(
        name,
        volume.values,
        affine,
        {**volume.sidecar, **side},
        volume.frame_spacing_s,
        volume.notes,
    )
