"""The folder of a run of the imaging alone: maps, arterial input, a page, and how it all came
about.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader

from nanopinn.imaging.cest.ph_map import VALIDITY_TEXTS as PH_WORDS
from nanopinn.imaging.dce.models import MODELS
from nanopinn.imaging.inputs import ImagingInputs
from nanopinn.imaging.parametric_maps import ImagingMaps, status_counts
from nanopinn.imaging.voxel_status import STATUS_TEXTS, Status
from nanopinn.io.output import atomic_output_folder
from nanopinn.io.volumes import write_bytes, write_json, write_volume
from nanopinn.report import figures as dce_figures
from nanopinn.report.figures import as_data_uri
from nanopinn.report.result_folder import provenance, to_toml

#: CAPLEX: concentration in arterial plasma.
_AIF_CAPLEX = {"Id": "Q.IC1.001.[a,p]", "Name": "Indicator concentration"}


def write_imaging(
    out: str | Path, imaging: ImagingMaps, inputs: ImagingInputs, *, overwrite: bool = False
) -> Path:
    """Write the folder of a run of the imaging alone, all or nothing.

    ``maps/`` holds every map with its ``_std`` and a JSON sidecar (unit, description, OSIPI CAPLEX
    name and id), ``aif.tsv`` the arterial input as it reaches the tumour, ``imaging.html`` a page
    to look at.

    Raises:
        OutputError: it exists and ``overwrite`` is false, or it cannot be written.
    """
    out = Path(out)
    with atomic_output_folder(out, overwrite=overwrite) as part:
        write_kinetic_maps(part / "maps", imaging)
        _write_other_maps(part / "maps", imaging)
        write_arterial_input(part, imaging)
        write_json(part / "imaging.json", _numbers(imaging))
        write_bytes(part / "imaging.html", render_imaging(imaging).encode())
        write_bytes(part / "config.toml", to_toml(inputs.to_config()).encode())
        write_json(part / "provenance.json", provenance({}, imaging.read, {}))
    return out


def write_kinetic_maps(folder: Path, imaging: ImagingMaps) -> None:
    """Every kinetic parameter with its standard deviation, and what is to be said of each voxel's
    fit.
    """
    k = imaging.kinetics
    for q, values in imaging.quantities():
        side = {
            "Unit": q.unit,
            "Description": q.description,
            "OSIPI": q.caplex,
            "Model": _model(imaging),
        }
        write_volume(folder / f"{q.name}.nii.gz", values, imaging.affine, sidecar=side)
        side = {**side, "Description": f"standard deviation of {q.name}"}
        write_volume(folder / f"{q.name}_std.nii.gz", k.std[q.name], imaging.affine, sidecar=side)
    bits = {int(s): STATUS_TEXTS[s] for s in Status if s in STATUS_TEXTS}
    more: list[tuple[str, Any, dict[str, Any]]] = [
        (
            "status",
            k.status,
            {"Unit": "1", "Description": "bit field; 0 is a voxel without complaint", "Bits": bits},
        ),
        (
            "r2",
            k.r2,
            {"Unit": "1", "Description": "share of the curve's variance that the model explains"},
        ),
        (
            "AICc",
            k.aicc,
            {"Unit": "1", "Description": "Akaike's criterion, corrected; lower is better"},
        ),
    ]
    if k.model == "auto":
        names = dict(enumerate(k.candidates))
        more.append(
            (
                "model",
                k.model_index,
                {
                    "Unit": "1",
                    "Description": "model with the least AICc; -1: none",
                    "Models": names,
                },
            )
        )
    for name, values, side in more:
        write_volume(folder / f"{name}.nii.gz", np.asarray(values), imaging.affine, sidecar=side)


def _model(imaging: ImagingMaps) -> dict[str, str]:
    name = imaging.kinetics.model
    return {
        "Name": name,
        "OSIPI": (
            MODELS[name].CAPLEX if name in MODELS else "chosen voxel by voxel, see model.nii.gz"
        ),
    }


def _write_other_maps(folder: Path, imaging: ImagingMaps) -> None:
    native = {"Id": "Q.EL1.001", "Name": "Longitudinal relaxation rate (its inverse is stored)"}
    maps: list[tuple[str, Any, dict[str, Any]]] = [
        (
            "T1",
            imaging.t1_s,
            {"Unit": "s", "Description": "native longitudinal relaxation time", "OSIPI": native},
        ),
        (
            "T1_std",
            imaging.t1_std_s,
            {
                "Unit": "s",
                "Description": "standard deviation of T1; NaN where the set leaves no residual",
            },
        ),
        (
            "pH",
            imaging.ph,
            {"Unit": "1", "Description": "extracellular pH, NaN where not measured"},
        ),
        ("pH_std", imaging.ph_std, {"Unit": "1", "Description": "standard deviation of pH"}),
    ]
    for name, values, side in maps:
        if np.isfinite(values).any():
            write_volume(folder / f"{name}.nii.gz", values, imaging.affine, sidecar=side)
    if np.isfinite(imaging.ph).any():
        side = {
            "Unit": "1",
            "Description": "bit field; 0 where pH was measured",
            "Bits": {int(b): w for b, w in PH_WORDS.items()},
        }
        write_volume(
            folder / "pH_validity.nii.gz", imaging.ph_validity, imaging.affine, sidecar=side
        )
    write_volume(
        folder / "mask.nii.gz",
        imaging.mask.astype(float),
        imaging.affine,
        sidecar={"Description": "tumour"},
    )


def write_arterial_input(folder: Path, imaging: ImagingMaps) -> None:
    """The plasma curve as a table that ``--aif`` reads back, and the voxels it was measured in."""
    rows = [
        f"{t:.6g}\t{c:.6g}" for t, c in zip(imaging.aif.times_s, imaging.aif.plasma_mM, strict=True)
    ]
    write_bytes(folder / "aif.tsv", ("time_s\tplasma_mM\n" + "\n".join(rows) + "\n").encode())
    side: dict[str, Any] = {
        "Columns": {
            "time_s": "s, on the clock of the frames, as it reaches the tumour",
            "plasma_mM": "mM in plasma",
        },
        "OSIPI": _AIF_CAPLEX,
        "ArterialDelay": imaging.delay_s,
    }
    if imaging.arterial_voxels is not None:
        side["Quality"] = imaging.arterial_voxels.quality
        where = imaging.arterial_voxels.where.astype(float)
        write_volume(
            folder / "aif_voxels.nii.gz",
            where,
            imaging.affine,
            sidecar={"Description": "voxels of the arterial input"},
        )
    write_json(folder / "aif.json", side)


def _numbers(imaging: ImagingMaps) -> dict[str, Any]:
    content: dict[str, Any] = {
        "summary": imaging.summary(),
        "median_over_tumour": {q.name: imaging.median(m) for q, m in imaging.quantities()},
        "valid_fraction": imaging.valid_fraction,
        "status": dict(status_counts(imaging)),
        "assumptions": list(imaging.assumptions),
    }
    if imaging.motion is not None:
        content["motion"] = {
            "translation_mm": imaging.motion.translation_mm.round(4).tolist(),
            "rotation_deg": imaging.motion.rotation_deg.round(4).tolist(),
        }
    return content


def render_imaging(imaging: ImagingMaps) -> str:
    """The page as text; figures travel inside it, and every value from outside is escaped."""
    environment = Environment(loader=PackageLoader("nanopinn", "report"), autoescape=True)
    figures = {
        name: as_data_uri(figure) for name, figure in dce_figures.imaging_figures(imaging).items()
    }
    rows = [
        (q, imaging.median(m), imaging.median(imaging.kinetics.std[q.name]))
        for q, m in imaging.quantities()
    ]
    return environment.get_template("imaging.html.j2").render(
        imaging=imaging, figures=figures, rows=rows, status=status_counts(imaging)
    )
