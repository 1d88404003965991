"""Where the tissue of a simulation comes from: a result folder, the digital phantom, or maps in
files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.cest.ph_on_dce_grid import HIGHEST_PH, LOWEST_PH
from nanopinn.imaging.geometry import same_grid
from nanopinn.inference.unknowns import scalar_unknowns
from nanopinn.io.volumes import read_map, read_sidecar
from nanopinn.parameters import value
from nanopinn.parameters.units import MINUTE, MM
from nanopinn.phantoms.truth import draw_anatomy, draw_scalars
from nanopinn.physics.tissue_maps import (
    MARGIN_M,
    PH_SMOOTHING_VOXELS,
    TissueMaps,
    cut_tissue_box,
    fill_kinetic_maps,
    fill_missing_voxels,
    shrink_to_tumour_mean,
    smooth_pH,
)
from nanopinn.report.result_folder import read_result
from nanopinn.settings import PhantomSettings
from nanopinn.solvers.grid import Domain, Grid, average_subcells

Array = NDArray[np.float64]

#: 1/s per unit in which a Ktrans map may be.
KTRANS_UNITS = {"1/min": 1 / MINUTE, "1/s": 1.0}


@dataclass(frozen=True)
class MapFiles:
    """Maps of one tumour, NIfTI on one grid: Ktrans (1/min, or as its sidecar's ``Unit`` says), ve,
    vp, pH, and the tumour's mask.
    """

    ktrans: str | Path
    ve: str | Path
    vp: str | Path
    mask: str | Path
    ph: str | Path | None = None


@dataclass(frozen=True)
class SimulatedTissue:
    """Tissue in a box around a tumour, ready to be solved, and what was assumed to make it so.

    Attributes:
        scalars: of the model (SI) where they differ from the table's, and weights ``(k,)`` of
            functions.
        affine, mask: of the image that the box was cut from.
        files: that were read.
    """

    maps: TissueMaps
    grid: Grid
    domain: Domain
    scalars: Mapping[str, float | Array]
    affine: Array
    mask: NDArray[np.bool_]
    assumptions: tuple[str, ...]
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class _InputMaps:
    """Maps ``(x, y, z)`` as they are, NaN where nothing is known; ``Ktrans`` in 1/s."""

    Ktrans: Array
    ve: Array
    vp: Array
    pH: Array
    mask: NDArray[np.bool_]
    affine: Array


def tissue_from_phantom(settings: PhantomSettings, device: str) -> SimulatedTissue:
    """The tumour that ``nanopinn phantom`` draws with these settings, averaged to its voxels, with
    its true scalars.

    Raises:
        InputError: they change it as radiation does, which a treatment must say.
    """
    if settings.factors:
        raise InputError(
            "a treatment irradiates the phantom, not its settings",
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
    note = (
        f"Tissue and scalars are those of the digital phantom of seed {settings.seed}, averaged to"
        " voxels: known, not measured."
    )
    return _build_tissue_in_box(found, scalars, [note], (), device)


def tissue_from_files(files: MapFiles, assume_ph: float | None, device: str) -> SimulatedTissue:
    """Tissue of maps in files, with table values for every scalar.

    Raises:
        InputError: a file cannot be read or holds something else, grids differ, the mask is empty,
            or there is no pH.
    """
    paths = {f.name: Path(p) for f in fields(files) if (p := getattr(files, f.name)) is not None}
    found, notes = _read_maps(paths, assume_ph, {n: f"--{n}" for n in paths})
    return _build_tissue_in_box(
        found,
        {},
        [*notes, "Every scalar of the model has its table value."],
        tuple(paths.values()),
        device,
    )


def tissue_from_result_folder(
    folder: Path, assume_ph: float | None, device: str
) -> SimulatedTissue:
    """Tissue of the maps of a ``nanopinn fit`` or ``nanopinn maps`` folder; scalars are a fit's
    posterior medians.

    Raises:
        InputError: it is no such folder, or as :func:`tissue_from_files`.
    """
    maps = folder / "maps"
    names = {"ktrans": "Ktrans", "ve": "ve", "vp": "vp", "mask": "mask", "ph": "pH"}
    paths = {
        key: path for key, name in names.items() if (path := maps / f"{name}.nii.gz").is_file()
    }
    missing = [names[key] for key in ("ktrans", "ve", "vp", "mask") if key not in paths]
    if missing:
        raise InputError(
            "not a folder of `nanopinn fit` or `nanopinn maps`",
            file=folder,
            field="--from",
            found=f"no {', no '.join(missing)} in maps/",
            expected="maps/Ktrans, ve, vp and mask.nii.gz",
            remedy="Give the --out of such a run; a fit of etofts has all of them.",
        )
    found, notes = _read_maps(paths, assume_ph, {n: f"--from: {p.name}" for n, p in paths.items()})
    found, more = _shrink_noisy_maps(found, maps)
    scalars, said = _posterior_medians(folder)
    files = [*paths.values(), *(f for f in (folder / "parameters.json",) if f.is_file())]
    return _build_tissue_in_box(found, scalars, [*notes, *more, said], tuple(files), device)


def _posterior_medians(folder: Path) -> tuple[dict[str, float], str]:
    if not (folder / "parameters.json").is_file():
        return {}, "The folder is of imaging alone: every scalar of the model has its table value."
    fitted = {s.name: s for s in read_result(folder).scalars}
    known = [u for u in scalar_unknowns() if u.name in fitted]
    informed = [u.label for u in known if fitted[u.name].informed]
    said = (
        "Scalars are the fit's posterior medians; of these the images informed"
        f" {', '.join(informed) or 'none'}, the others are priors."
    )
    return {u.name: fitted[u.name].median / u.per_unit for u in known}, said


def _shrink_noisy_maps(found: _InputMaps, maps: Path) -> tuple[_InputMaps, list[str]]:
    """ve and vp drawn to the tumour's mean as far as their standard deviations ask, as in fits."""
    drawn = {}
    for name in ("ve", "vp"):
        if (path := maps / f"{name}_std.nii.gz").is_file():
            drawn[name] = shrink_to_tumour_mean(
                getattr(found, name), read_map(path)[0], found.mask
            )[0]
    if not drawn:
        return found, []
    plain = {f.name: getattr(found, f.name) for f in fields(found)}
    return _InputMaps(**{**plain, **drawn}), [
        f"Voxels of {' and '.join(drawn)} are drawn to the tumour's mean as far as their error"
        " asks."
    ]


def _read_maps(
    paths: Mapping[str, Path], assume_ph: float | None, said: Mapping[str, str]
) -> tuple[_InputMaps, list[str]]:
    """Read maps, all on the grid of Ktrans; ``said`` is what the user calls each."""
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
                field=said[name],
                found="x".join(map(str, values[name].shape)),
                expected=f"shape and affine of {paths['ktrans'].name}, {'x'.join(map(str, shape))}",
                remedy="Resample it, or let `nanopinn maps` make all of them.",
            )
    mask = values["mask"] > 0.5
    if not mask.any():
        raise InputError(
            "the mask is empty",
            file=paths["mask"],
            field=said["mask"],
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
            _require_plausible_median(values[name], mask, low, high, what, paths[name], said[name])
    pH, more = _choose_ph_map(values.get("ph"), assume_ph, mask)
    measured = _InputMaps(
        values["ktrans"] * factor, values["ve"], values["vp"], smooth_pH(pH, mask), mask, affine
    )
    smooth = (
        f"pH is smoothed (local paraboloids, Gaussian of {PH_SMOOTHING_VOXELS:g} voxels) before it"
        " drives release, as in fits."
    )
    return measured, [*notes, *(more or [smooth])]


def _ktrans_unit(path: Path) -> tuple[float, list[str]]:
    unit = read_sidecar(path).get("Unit")
    if unit is None:
        return KTRANS_UNITS["1/min"], [f"{path.name} has no Unit in a sidecar: taken as 1/min."]
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
    path: Path,
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
            field="--ph",
            expected="a map of extracellular pH",
            remedy="Give one, or --assume-ph 6.9.",
        )
    if not LOWEST_PH <= assumed <= HIGHEST_PH:
        raise InputError(
            "not an extracellular pH",
            field="--assume-ph",
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
    files: tuple[Path, ...],
    device: str,
) -> SimulatedTissue:
    """Cut the box around the tumour and fill what was not measured."""
    spacing = tuple(float(h) * MM for h in np.linalg.norm(found.affine[:3, :3], axis=0))
    inside, domain = found.mask, Domain.around(found.mask, spacing, MARGIN_M)
    layers = {"Ktrans": found.Ktrans, "ve": found.ve, "vp": found.vp, "pH": found.pH}
    holes = {name: int((inside & ~np.isfinite(a)).sum()) for name, a in layers.items()}
    kinetics = fill_kinetic_maps(found.Ktrans, found.ve, found.vp, inside)
    pH = fill_missing_voxels(found.pH, inside, value("pHe_n"), LOWEST_PH, HIGHEST_PH)
    maps = cut_tissue_box(*kinetics, pH, inside, domain.take, device)
    notes = [
        *notes,
        *(
            f"{n} tumour voxels without {name} carry the tumour's median."
            for name, n in holes.items()
            if n
        ),
    ]
    notes.append(
        "Filtration and the permeability of the wall follow the map of Ktrans inside the tumour;"
        " porosity is ve. Outside the tumour flow and walls have the table's values for normal"
        f" tissue; {MARGIN_M / MM:g} mm of it are solved around the tumour."
    )
    grid = Grid(domain.shape, (spacing[0], spacing[1], spacing[2]))
    return SimulatedTissue(maps, grid, domain, scalars, found.affine, inside, tuple(notes), files)
