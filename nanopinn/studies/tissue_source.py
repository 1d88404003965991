"""Tissue of a simulation: from a result, from the digital phantom, or from maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.cest.ph_on_dce_grid import HIGHEST_PH, LOWEST_PH
from nanopinn.imaging.geometry import same_grid
from nanopinn.imaging.imaging_data import ImagingMaps
from nanopinn.io.array_volume import ArrayVolume, VolumeLike, as_file, as_volume_source
from nanopinn.io.volumes import read_map, read_sidecar
from nanopinn.parameters import MINUTE, MM, SCALARS, value
from nanopinn.phantoms.truth import draw_anatomy, draw_scalars
from nanopinn.physics.tissue_maps import (
    MARGIN_M,
    PH_SMOOTHING_VOXELS,
    TissueMaps,
    cut_tissue_box,
    describe_cut_faces,
    fill_kinetic_maps,
    fill_missing_voxels,
    shrink_to_tumour_mean,
    smooth_pH,
)
from nanopinn.report.result_folder import read_result
from nanopinn.results import FitResult, ScalarEstimate
from nanopinn.settings import PhantomSettings
from nanopinn.solvers.grid import Domain, Grid, average_subcells

Array = NDArray[np.float64]

#: 1/s per unit in which a Ktrans map may be.
KTRANS_UNITS = {"1/min": 1 / MINUTE, "1/s": 1.0}


@dataclass(frozen=True)
class MapFiles:
    """Maps of one tumour on one grid, as NIfTI files or in memory.

    Attributes:
        ktrans: Ktrans, 1/min, or in the ``Unit`` of its sidecar.
        ve: extravascular extracellular volume fraction.
        vp: plasma volume fraction.
        mask: tumour.
        ph: extracellular pH.
        affine: ``(4, 4)`` to RAS mm, of arrays without one.

    Raises:
        InputError: a value is not a volume.
    """

    ktrans: VolumeLike
    ve: VolumeLike
    vp: VolumeLike
    mask: VolumeLike
    ph: VolumeLike = None
    affine: InitVar[Any] = None

    def __post_init__(self, affine: Any) -> None:
        """Hold arrays as volumes."""
        for f in fields(self):
            given = getattr(self, f.name)
            if given is not None:
                held = as_volume_source(given, f.name, affine=affine)
                object.__setattr__(self, f.name, held)
                if affine is None and isinstance(held, ArrayVolume):
                    affine = held.affine  # of Ktrans, for maps without one


@dataclass(frozen=True)
class SimulatedTissue:
    """Tissue in a box around a tumour, and the assumptions behind it.

    Attributes:
        maps: of the tissue.
        grid: of the box.
        domain: the box within the image.
        scalars: of the model, SI, where they differ from the table's; weights of functions
            ``(k,)``.
        affine: of the image.
        mask: tumour in the image.
        assumptions: one sentence each.
        files: that were read.
    """

    maps: TissueMaps
    grid: Grid
    domain: Domain
    scalars: Mapping[str, float | Array]
    affine: Array
    mask: NDArray[np.bool_]
    assumptions: tuple[str, ...]
    files: tuple[Path | ArrayVolume, ...] = ()


@dataclass(frozen=True)
class _InputMaps:
    """Maps ``(x, y, z)`` as given, NaN where missing; ``Ktrans`` in 1/s."""

    Ktrans: Array
    ve: Array
    vp: Array
    pH: Array
    mask: NDArray[np.bool_]
    affine: Array


def tissue_from_phantom(
    settings: PhantomSettings, device: str, *, scalars_are_known: bool = True
) -> SimulatedTissue:
    """Tissue of the digital phantom, averaged to its voxels, with its true scalars.

    Args:
        settings: of the phantom.
        device: of the tensors.
        scalars_are_known: whether its true scalars are used; otherwise it has none.

    Raises:
        InputError: the settings have factors on the tissue's properties, which belong to the
            treatment.
    """
    if settings.factors:
        raise InputError(
            "effects of radiation belong to the treatment, not to the phantom",
            field="factors",
            remedy="Put fractions into the schedule.",
        )
    rng = np.random.default_rng(settings.seed)
    r, (nx, ny, nz), (hx, hy, hz) = settings.refine, settings.shape, settings.voxel_mm
    fine = draw_anatomy((nx * r, ny * r, nz * r), (hx / r, hy / r, hz / r), rng)
    scalars = draw_scalars(
        rng, None if settings.length_scale_mm is None else settings.length_scale_mm * MM
    )

    def voxels(a: Array) -> Array:
        return average_subcells(torch.from_numpy(a), r).numpy()

    found = _InputMaps(
        voxels(fine.PS),
        voxels(fine.phi),
        voxels(fine.v_p),
        voxels(fine.pH),
        voxels(fine.tumour.astype(float)) > 0.5,
        np.diag([hx, hy, hz, 1.0]),
    )
    true = "Tissue and scalars are the true ones" if scalars_are_known else "Tissue is the true one"
    note = f"{true} of the digital phantom of seed {settings.seed}, averaged to voxels."
    known = scalars if scalars_are_known else {}
    return _build_tissue_in_box(found, known, [note], (), device)


def tissue_from_files(files: MapFiles, assume_ph: float | None, device: str) -> SimulatedTissue:
    """Tissue of maps, with table values for every scalar.

    Args:
        files: the maps.
        assume_ph: pH of the tumour where there is no map of it.
        device: of the tensors.

    Raises:
        InputError: a map cannot be read or holds something else, grids differ, the mask is empty,
            or there is no pH.
    """
    sources = {
        f.name: as_file(p) for f in fields(files) if (p := getattr(files, f.name)) is not None
    }
    found, notes = _read_maps(sources, assume_ph, {n: n for n in sources})
    return _build_tissue_in_box(
        found,
        {},
        [*notes, "Every scalar of the model that is not stated has its table value."],
        tuple(sources.values()),
        device,
    )


#: Maps of a result that a simulation reads, by the name of the field of :class:`MapFiles`.
_RESULT_MAPS = {"ktrans": "Ktrans", "ve": "ve", "vp": "vp", "mask": "mask", "ph": "pH"}


def tissue_from_result_folder(
    folder: Path, assume_ph: float | None, device: str
) -> SimulatedTissue:
    """Tissue of the maps of a result folder of a fit or of imaging, with the posterior medians of
    the fit as scalars.

    Args:
        folder: the result folder.
        assume_ph: pH of the tumour where there is no map of it.
        device: of the tensors.

    Raises:
        InputError: the folder is no such result, or as :func:`tissue_from_files`.
    """
    names = (*_RESULT_MAPS.values(), "ve_std", "vp_std")
    maps = {n: path for n in names if (path := folder / "maps" / f"{n}.nii.gz").is_file()}
    fitted = read_result(folder).scalars if (folder / "parameters.json").is_file() else None
    more = (folder / "parameters.json",) if fitted is not None else ()
    return _tissue_from_result(maps, fitted, folder, more, assume_ph, device)


def tissue_from_result(
    result: FitResult | ImagingMaps, assume_ph: float | None, device: str
) -> SimulatedTissue:
    """Tissue of a fit or imaging maps in memory, with the posterior medians of the fit as scalars.

    Args:
        result: the fit, or the maps.
        assume_ph: pH of the tumour where there is no map of it.
        device: of the tensors.

    Raises:
        InputError: as :func:`tissue_from_files`.
    """
    if isinstance(result, ImagingMaps):
        kinetics, fitted = result.kinetics, None
        values = {"Ktrans": result.ktrans_per_min, "ve": result.ve, "vp": result.vp}
        values |= {f"{n}_std": kinetics.std[n] for n in ("ve", "vp") if n in kinetics.std}
        values |= {"pH": result.ph} if np.isfinite(result.ph).any() else {}
    else:
        fitted, maps = result.scalars, result.maps
        values = {n: maps[n].values for n in ("Ktrans", "ve", "vp", "pH") if n in maps}
        for n in ("ve", "vp"):
            if n in maps and (std := maps[n].std) is not None:
                values[f"{n}_std"] = std
    values["mask"] = result.mask.astype(np.float64)
    sources = {
        n: ArrayVolume(n, v, result.affine, {"Unit": "1/min"} if n == "Ktrans" else {})
        for n, v in values.items()
        if np.isfinite(v).any()
    }
    return _tissue_from_result(sources, fitted, None, (), assume_ph, device)


def _tissue_from_result(
    maps: Mapping[str, Path | ArrayVolume],
    fitted: Sequence[ScalarEstimate] | None,
    folder: Path | None,
    more_files: tuple[Path, ...],
    assume_ph: float | None,
    device: str,
) -> SimulatedTissue:
    """Tissue of a result's maps; ``fitted`` are its scalars, None where only imaging was done."""
    sources = {key: maps[name] for key, name in _RESULT_MAPS.items() if name in maps}
    missing = [_RESULT_MAPS[k] for k in ("ktrans", "ve", "vp", "mask") if k not in sources]
    if missing:
        raise InputError(
            "not a result of a fit or of imaging maps",
            file=folder,
            field="folder" if folder is not None else "fit",
            found=f"no {', no '.join(missing)}",
            expected="maps of Ktrans, ve, vp and the mask",
            remedy="Give the result of such a run; a fit of etofts has all of them.",
        )
    labels = {key: f"map {_RESULT_MAPS[key]} of the result" for key in sources}
    found, notes = _read_maps(sources, assume_ph, labels)
    stds = {n: maps[f"{n}_std"] for n in ("ve", "vp") if f"{n}_std" in maps}
    found, shrunk = _shrink_noisy_maps(found, stds)
    scalars, source = _posterior_medians(fitted)
    files = (*sources.values(), *more_files)
    return _build_tissue_in_box(found, scalars, [*notes, *shrunk, source], files, device)


def _posterior_medians(fitted: Sequence[ScalarEstimate] | None) -> tuple[dict[str, float], str]:
    if fitted is None:
        return {}, (
            "The result is of imaging only: every scalar of the model that is not stated has its"
            " table value."
        )
    named = {s.name: s for s in fitted}
    known = [s for s in SCALARS.values() if s.name in named]
    informed = [u.label for u in known if named[u.name].informed]
    source = (
        "Scalars are the posterior medians of the fit; the images informed"
        f" {', '.join(informed) or 'none'} of these, the others are prior-dominated. Scalars of a"
        " carrier are those of the carrier that was imaged."
    )
    return {u.name: named[u.name].median / u.per_unit for u in known}, source


def _shrink_noisy_maps(
    found: _InputMaps, stds: Mapping[str, Path | ArrayVolume]
) -> tuple[_InputMaps, list[str]]:
    """Shrink ve and vp to the tumour's mean by empirical Bayes, as in fits."""
    shrunk = {
        name: shrink_to_tumour_mean(getattr(found, name), read_map(std)[0], found.mask)[0]
        for name, std in stds.items()
    }
    if not shrunk:
        return found, []
    plain = {f.name: getattr(found, f.name) for f in fields(found)}
    return _InputMaps(**{**plain, **shrunk}), [
        f"Voxels of {' and '.join(shrunk)} are shrunk to the tumour's mean according to their"
        " standard deviations."
    ]


def _read_maps(
    paths: Mapping[str, Path | ArrayVolume], assume_ph: float | None, labels: Mapping[str, str]
) -> tuple[_InputMaps, list[str]]:
    """Read maps, all on the grid of Ktrans; ``labels`` are their names in errors."""
    values: dict[str, Array] = {}
    affine, shape = np.eye(4), (0, 0, 0)
    for name in sorted(paths, key=lambda n: n != "ktrans"):
        values[name], own, _ = read_map(paths[name])
        if name == "ktrans":
            affine, shape = own, values[name].shape
        elif not same_grid(shape, affine, values[name].shape, own):
            raise InputError(
                "the maps are not on one grid",
                file=paths[name],
                field=labels[name],
                found="x".join(map(str, values[name].shape)),
                expected=f"shape and affine of {paths['ktrans'].name}, {'x'.join(map(str, shape))}",
                remedy="Resample it, or compute all maps from one scan.",
            )
    mask = values["mask"] > 0.5
    if not mask.any():
        raise InputError(
            "the mask is empty",
            file=paths["mask"],
            field=labels["mask"],
            expected="voxels above 0.5",
            remedy="Draw the tumour.",
        )
    factor, notes = _ktrans_unit(paths["ktrans"])
    for name, low, high, what in (
        ("ktrans", 0.0, 10 / MINUTE / factor, "a transfer constant"),
        ("ve", 0.0, 1.0, "a fraction"),
        ("vp", 0.0, 1.0, "a fraction"),
        ("ph", LOWEST_PH, HIGHEST_PH, "an extracellular pH"),
    ):
        if name in values:
            _require_plausible_median(
                values[name], mask, low, high, what, paths[name], labels[name]
            )
    pH, more = _choose_ph_map(values.get("ph"), assume_ph, mask)
    measured = _InputMaps(
        values["ktrans"] * factor, values["ve"], values["vp"], smooth_pH(pH, mask), mask, affine
    )
    smooth = (
        f"pH is smoothed (local paraboloids, Gaussian of {PH_SMOOTHING_VOXELS:g} voxels) before the"
        " release rate is computed, as in fits."
    )
    return measured, [*notes, *(more or [smooth])]


def _ktrans_unit(path: Path | ArrayVolume) -> tuple[float, list[str]]:
    unit = read_sidecar(path).get("Unit")
    if unit is None:
        return KTRANS_UNITS["1/min"], [f"{path.name} has no Unit in a sidecar: 1/min is assumed."]
    if unit not in tuple(KTRANS_UNITS):
        raise InputError(
            "the unit of Ktrans is not known",
            file=path,
            field="Unit",
            found=unit,
            expected=" or ".join(KTRANS_UNITS),
        )
    return KTRANS_UNITS[unit], []


def _require_plausible_median(
    values: Array,
    mask: NDArray[np.bool_],
    low: float,
    high: float,
    what: str,
    path: Path | ArrayVolume,
    field: str,
) -> None:
    known = values[mask & np.isfinite(values)]
    if known.size and not low <= (middle := float(np.median(known))) <= high:
        raise InputError(
            f"the map does not hold {what}",
            file=path,
            field=field,
            found=f"median {middle:g}",
            expected=f"{low:g} to {high:g}",
        )


def _choose_ph_map(
    measured: Array | None, assumed: float | None, mask: NDArray[np.bool_]
) -> tuple[Array, list[str]]:
    """The pH map, NaN where not measured; a value throughout the tumour if there is no map."""
    if measured is not None and np.isfinite(measured[mask]).any():
        return measured, []
    if assumed is None:
        raise InputError(
            "there is no pH of the tumour",
            field="ph",
            expected="a map of extracellular pH",
            remedy="Give `ph`, or `assume_ph`, for example 6.9.",
        )
    if not LOWEST_PH <= assumed <= HIGHEST_PH:
        raise InputError(
            "not an extracellular pH",
            field="assume_ph",
            found=assumed,
            expected=f"{LOWEST_PH} to {HIGHEST_PH}",
        )
    return np.where(mask, assumed, np.nan), [
        f"pH was not measured: {assumed:g} is assumed throughout the tumour."
    ]


def _build_tissue_in_box(
    found: _InputMaps,
    scalars: Mapping[str, float],
    notes: list[str],
    files: tuple[Path | ArrayVolume, ...],
    device: str,
) -> SimulatedTissue:
    """Fill missing voxels and cut the box around the tumour."""
    spacing = tuple(float(h) * MM for h in np.linalg.norm(found.affine[:3, :3], axis=0))
    inside, faces = found.mask, Domain.cut_faces(found.mask)
    domain = Domain.from_mask(inside, spacing, MARGIN_M, faces)
    layers = {"Ktrans": found.Ktrans, "ve": found.ve, "vp": found.vp, "pH": found.pH}
    holes = {name: int((inside & ~np.isfinite(a)).sum()) for name, a in layers.items()}
    kinetics = fill_kinetic_maps(found.Ktrans, found.ve, found.vp, inside)
    pH = fill_missing_voxels(found.pH, inside, value("pHe_n"), LOWEST_PH, HIGHEST_PH)
    maps = replace(cut_tissue_box(*kinetics, pH, inside, domain.crop, device), cut=faces)
    notes = [
        *notes,
        *(
            f"{n} tumour voxels without {name} have the tumour's median."
            for name, n in holes.items()
            if n
        ),
    ]
    notes.append(
        "Filtration and the permeability of vessel walls are proportional to Ktrans inside the"
        " tumour; the porosity is ve. Outside the tumour flow and walls have the table's values for"
        f" normal tissue, of which {MARGIN_M / MM:g} mm around the tumour are solved."
    )
    notes += describe_cut_faces(inside, faces)
    grid = Grid(domain.shape, (spacing[0], spacing[1], spacing[2]))
    return SimulatedTissue(maps, grid, domain, scalars, found.affine, inside, tuple(notes), files)
