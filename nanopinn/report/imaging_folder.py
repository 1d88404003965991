"""Write the result folder of the imaging alone: maps, arterial input function and page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nanopinn.imaging.cest.ph_map import VALIDITY_TEXTS
from nanopinn.imaging.dce.aif import arterial_quality
from nanopinn.imaging.dce.models import MODELS
from nanopinn.imaging.inputs import ImagingInputs
from nanopinn.imaging.parametric_maps import (
    ImagingMaps,
    format_imaging_summary,
    kinetic_quantities,
    status_counts,
    tumour_median,
)
from nanopinn.imaging.voxel_status import STATUS_TEXTS, Status
from nanopinn.io.output import atomic_output_folder
from nanopinn.io.volumes import write_bytes, write_json, write_volume
from nanopinn.report.figures import as_data_uri
from nanopinn.report.figures_imaging import imaging_figures
from nanopinn.report.result_files import (
    format_columns,
    render_page,
    write_config_and_provenance,
    write_mask,
)

#: OSIPI CAPLEX entry: indicator concentration in arterial plasma.
_AIF_CAPLEX = {"Id": "Q.IC1.001.[a,p]", "Name": "Indicator concentration"}
_T1_CAPLEX = {"Id": "Q.EL1.001", "Name": "Longitudinal relaxation rate (its inverse is stored)"}
#: Name of a map, its values and its sidecar.
_NamedMap = tuple[str, Any, dict[str, Any]]


def write_imaging(
    out: str | Path, imaging: ImagingMaps, inputs: ImagingInputs, *, overwrite: bool = False
) -> Path:
    """Write the result folder of the imaging, all or nothing.

    ``maps/`` holds every map with its ``_std`` and a JSON sidecar (unit, description, OSIPI CAPLEX
    name and id), ``aif.tsv`` the arterial input function at its arrival in the tumour,
    ``imaging.html`` the page.

    Args:
        out: The folder.
        imaging: The result.
        inputs: Inputs it was computed from.
        overwrite: Whether an existing result folder may be replaced.

    Raises:
        OutputError: The folder exists and ``overwrite`` is false, or it cannot be written.
    """
    out = Path(out)
    with atomic_output_folder(out, overwrite=overwrite) as part:
        for name, values, sidecar in (*_kinetic_maps(imaging), *_other_maps(imaging)):
            path = part / "maps" / f"{name}.nii.gz"
            write_volume(path, np.asarray(values), imaging.affine, sidecar=sidecar)
        write_mask(part / "maps", imaging.mask, imaging.affine)
        _write_arterial_input(part, imaging)
        write_json(part / "imaging.json", _json_entries(imaging))
        write_bytes(part / "imaging.html", render_imaging(imaging).encode())
        write_config_and_provenance(part, inputs.to_config(), {}, imaging.file_hashes)
    return out


def _kinetic_maps(imaging: ImagingMaps) -> list[_NamedMap]:
    """Kinetic parameters with standard deviations, and the quality of the fit of each voxel."""
    k = imaging.kinetics
    model = {"Name": k.model, "OSIPI": "chosen for each voxel, see model.nii.gz"}
    if k.model in MODELS:
        model["OSIPI"] = MODELS[k.model].CAPLEX
    maps: list[_NamedMap] = []
    for q, values in kinetic_quantities(imaging):
        sidecar = {
            "Unit": q.unit,
            "Description": q.description,
            "OSIPI": q.caplex,
            "Model": model,
        }
        sd_sidecar = {**sidecar, "Description": f"standard deviation of {q.name}"}
        maps += [(q.name, values, sidecar), (f"{q.name}_std", k.std[q.name], sd_sidecar)]
    bits = {int(s): STATUS_TEXTS[s] for s in Status if s in STATUS_TEXTS}
    status = {
        "Unit": "1",
        "Description": "bit field of the kinetic fit; 0 means a valid fit",
        "Bits": bits,
    }
    r2 = {"Unit": "1", "Description": "fraction of the curve's variance that the model explains"}
    aicc = {"Unit": "1", "Description": "corrected Akaike information criterion (AICc)"}
    maps += [("status", k.status, status), ("r2", k.r2, r2), ("AICc", k.aicc, aicc)]
    if k.model == "auto":
        models: dict[str, Any] = {
            "Unit": "1",
            "Description": "model with the least AICc; -1: none",
            "Models": dict(enumerate(k.candidates)),
        }
        maps.append(("model", k.model_index, models))
    return maps


def _other_maps(imaging: ImagingMaps) -> list[_NamedMap]:
    """Native T1 and pH with standard deviations, as far as they are known."""

    def describe(unit: str, description: str, **more: Any) -> dict[str, Any]:
        return {"Unit": unit, "Description": description, **more}

    t1_sd = "standard deviation of T1; NaN where the set leaves no residual"
    native_t1 = describe("s", "native longitudinal relaxation time", OSIPI=_T1_CAPLEX)
    maps: list[_NamedMap] = [
        ("T1", imaging.t1_s, native_t1),
        ("T1_std", imaging.t1_std_s, describe("s", t1_sd)),
        ("pH", imaging.ph, describe("1", "extracellular pH, NaN where not measured")),
        ("pH_std", imaging.ph_std, describe("1", "standard deviation of pH")),
    ]
    found = [m for m in maps if np.isfinite(m[1]).any()]
    if np.isfinite(imaging.ph).any():
        bits = {int(b): text for b, text in VALIDITY_TEXTS.items()}
        validity = describe("1", "bit field; 0 where pH was measured", Bits=bits)
        found.append(("pH_validity", imaging.ph_validity, validity))
    return found


def _write_arterial_input(folder: Path, imaging: ImagingMaps) -> None:
    """Write the plasma curve as a table that can be read as input, and its voxels."""
    columns = {"time_s": imaging.aif.times_s, "plasma_mM": imaging.aif.plasma_mM}
    write_bytes(folder / "aif.tsv", format_columns(columns))
    sidecar: dict[str, Any] = {
        "Columns": {
            "time_s": "time on the clock of the frames at the arrival in the tumour, s",
            "plasma_mM": "concentration in plasma, mM",
        },
        "OSIPI": _AIF_CAPLEX,
        "ArterialDelay": imaging.delay_s,
    }
    if imaging.arterial_voxels is not None:
        sidecar["Quality"] = arterial_quality(imaging.arterial_voxels)
        voxels = imaging.arterial_voxels.mask.astype(float)
        side = {"Description": "voxels of the arterial input"}
        write_volume(folder / "aif_voxels.nii.gz", voxels, imaging.affine, sidecar=side)
    write_json(folder / "aif.json", sidecar)


def _json_entries(imaging: ImagingMaps) -> dict[str, Any]:
    content: dict[str, Any] = {
        "summary": format_imaging_summary(imaging),
        "median_over_tumour": {
            q.name: tumour_median(imaging, m) for q, m in kinetic_quantities(imaging)
        },
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
    """Render the page of the imaging as HTML."""
    rows = [
        (q, tumour_median(imaging, m), tumour_median(imaging, imaging.kinetics.std[q.name]))
        for q, m in kinetic_quantities(imaging)
    ]
    return render_page(
        "imaging.html.j2",
        imaging=imaging,
        figures={name: as_data_uri(figure) for name, figure in imaging_figures(imaging).items()},
        rows=rows,
        status=status_counts(imaging),
        summary=format_imaging_summary(imaging),
        arterial_quality=None
        if imaging.arterial_voxels is None
        else arterial_quality(imaging.arterial_voxels),
    )
