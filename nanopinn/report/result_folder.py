"""Write and read result folders: of a fit (report, maps, fields, parameters, check), and of the
imaging alone (maps, arterial input function, page).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanopinn.errors import InputError
from nanopinn.imaging.cest.ph_map import VALIDITY_TEXTS
from nanopinn.imaging.dce.aif import arterial_quality
from nanopinn.imaging.dce.models import MODELS
from nanopinn.imaging.imaging_data import (
    ImagingInputs,
    ImagingMaps,
    format_imaging_summary,
    kinetic_quantities,
    status_counts,
    tumour_median,
)
from nanopinn.imaging.voxel_status import STATUS_TEXTS, Status
from nanopinn.inference.saved_fit import save_fit
from nanopinn.inference.uncertainty.profile import strongest_correlation
from nanopinn.io.output import atomic_output_folder
from nanopinn.io.safe_open import is_file, read_json
from nanopinn.io.serialize import check_fields
from nanopinn.io.volumes import write_bytes, write_json, write_volume
from nanopinn.report.figures import as_data_uri, fit_figures, imaging_figures, input_figures
from nanopinn.report.fit_summary import (
    describe_information,
    describe_prior_shifts,
    describe_profile,
)
from nanopinn.report.result_files import (
    format_columns,
    format_tsv,
    render_page,
    write_config_and_provenance,
    write_field,
    write_map,
    write_mask,
)
from nanopinn.results import CheckItem, CheckResult, FitResult, ScalarEstimate

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
        if imaging.has_dce:
            _write_arterial_input(part, imaging)
        write_json(part / "imaging.json", _json_entries(imaging))
        write_bytes(part / "imaging.html", render_imaging(imaging).encode())
        write_config_and_provenance(part, inputs.to_config(), {}, imaging.file_hashes)
    return out


def _kinetic_maps(imaging: ImagingMaps) -> list[_NamedMap]:
    """Kinetic parameters with standard deviations, and the quality of the fit of each voxel."""
    if not imaging.has_dce:
        return []
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
        }
        if imaging.has_dce
        else {"pH": tumour_median(imaging, imaging.ph)},
        "valid_fraction": imaging.valid_fraction if imaging.has_dce else None,
        "status": dict(status_counts(imaging)) if imaging.has_dce else {},
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


def render_report(imaging: ImagingMaps, fit: FitResult) -> str:
    """Render the report of a fit as HTML.

    Args:
        imaging: Maps and curves that were fitted.
        fit: The result.
    """
    engines = [
        {"name": name, "run": run, "values": {s.name: s for s in run.scalars}}
        for name, run in fit.runs.items()
    ]
    return render_page(
        "report.html.j2",
        fit=fit,
        imaging=imaging,
        imaging_summary=format_imaging_summary(imaging),
        figures=fit_figures(fit),
        imaging_figures={name: as_data_uri(f) for name, f in input_figures(imaging).items()},
        status=status_counts(imaging),
        engines=engines,
        information=describe_information(fit),
        partners=_correlation_partners(fit),
        conflicts=describe_prior_shifts(fit),
        profile_texts=[describe_profile(p) for p in fit.profiles.values()],
    )


def _correlation_partners(fit: FitResult) -> dict[str, str]:
    """Label and correlation of the strongest partner of every parameter that has one."""
    names, labels = [s.name for s in fit.scalars], {s.name: s.label for s in fit.scalars}
    found = {name: strongest_correlation(names, fit.covariance, name) for name in names}
    return {
        name: f"{labels[c.partner]} ({c.strength:+.2f})"
        for name, c in found.items()
        if c is not None
    }


def write_result(
    out: Path,
    *,
    imaging: ImagingMaps,
    fit: FitResult,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    report: str,
    overwrite: bool = False,
) -> Path:
    """Write the result folder of a fit, all or nothing.

    Args:
        out: The folder.
        imaging: Maps and curves that were fitted.
        fit: The result.
        config: Settings by table.
        inputs: SHA-256 of each input file, by name.
        report: Report as HTML, from :func:`render_report`.
        overwrite: Whether an existing result folder may be replaced.

    Raises:
        OutputError: The folder exists and ``overwrite`` is false, or it cannot be written.
    """
    with atomic_output_folder(out, overwrite=overwrite) as part:
        _write_maps(part, imaging, fit)
        _write_parameters(part, fit)
        _write_check(part, fit.check)
        save_fit(fit, part)
        write_bytes(part / "report.html", report.encode())
        recovered = {name: list(r.events) for name, r in fit.runs.items()}
        write_config_and_provenance(part, config, fit.seconds, inputs, recovered_from=recovered)
    return out


def copy_result(folder: Path, out: Path, *, overwrite: bool = False) -> Path:
    """Copy a result folder, all or nothing.

    Args:
        folder: The result folder.
        out: Folder of the copy.
        overwrite: Whether an existing result folder may be replaced.

    Raises:
        OutputError: ``out`` exists and ``overwrite`` is false, or it cannot be written.
    """
    with atomic_output_folder(out, overwrite=overwrite) as part:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            write_bytes(part / file.relative_to(folder), file.read_bytes())
    return out


def _write_maps(folder: Path, imaging: ImagingMaps, fit: FitResult) -> None:
    maps = folder / "maps"
    for m in fit.maps.values():
        sd = f"posterior standard deviation of {m.name}"
        write_map(maps, m, fit.affine, std_description=sd)
    for v in fit.vectors.values():
        side = {
            "Unit": v.unit,
            "Description": v.description,
            "Components": "along the voxel axes x, y, z",
        }
        write_volume(maps / f"{v.name}.nii.gz", v.values, fit.affine, sidecar=side)
    side = {"Unit": "1", "Description": "bit field of the kinetic fit; 0 means a valid fit"}
    write_volume(maps / "status.nii.gz", imaging.status, fit.affine, sidecar=side)
    write_mask(maps, fit.mask, fit.affine)
    for f in fit.fields.values():
        write_field(folder / "fields", f, fit.affine)


def _write_parameters(folder: Path, fit: FitResult) -> None:
    rows = [parameter_row(s) for s in fit.scalars]
    engines = {
        name: {
            "message": r.message,
            "converged": r.converged,
            "stats": dict(r.stats),
            "recovered_from": list(r.events),
            "objective": list(r.objective),
            "scalars": [parameter_row(s) for s in r.scalars],
        }
        for name, r in fit.runs.items()
    }
    content = {
        "parameters": rows,
        "covariance": fit.covariance.tolist(),
        "engines": engines,
        "engine_distance_in_posterior_sd": dict(fit.engine_distance),
        "assumptions": list(fit.assumptions),
        "prior_shifts": [asdict(s) | {"flagged": s.flagged} for s in fit.prior_shifts],
        "in_words": " ".join([describe_information(fit), *describe_prior_shifts(fit)]),
    }
    write_json(folder / "parameters.json", content)
    write_bytes(folder / "parameters.tsv", format_tsv(rows))


def _write_check(folder: Path, check: CheckResult) -> None:
    content = {
        "passed": check.passed,
        "headline": check.headline,
        "seconds": check.seconds,
        "items": [asdict(i) for i in check.items],
    }
    write_json(folder / "check.json", content)


def parameter_row(s: ScalarEstimate) -> dict[str, Any]:
    """Row of a parameter in the tables of a result folder."""
    low, high = s.interval()
    return {
        "name": s.name,
        "label": s.label,
        "unit": s.unit,
        "scale": s.scale,
        "prior_median": s.prior_median,
        "prior_sd": s.prior_sd,
        "posterior_median": s.median,
        "posterior_sd": s.sd,
        "low_95": low,
        "high_95": high,
        "contraction": s.contraction,
        "informed": "yes" if s.informed else "no",
    }


@dataclass(frozen=True)
class ResultFolder:
    """Tables of a result folder.

    Attributes:
        scalars: Parameters with prior and posterior.
        check: The finite-volume check.
        assumptions: Assumptions, one sentence each.
    """

    scalars: tuple[ScalarEstimate, ...]
    check: CheckResult
    assumptions: tuple[str, ...]


def read_result(folder: Path) -> ResultFolder:
    """Read the tables of a result folder.

    Args:
        folder: The folder.

    Raises:
        InputError: The folder is not a result folder.
    """
    missing = [name for name in ("parameters.json", "check.json") if not is_file(folder / name)]
    if missing:
        raise _not_a_result_error(folder, f"no {' and no '.join(missing)}")
    table, check = (
        read_json(folder / name, "this table of a result")
        for name in ("parameters.json", "check.json")
    )
    known = {"CheckItem": CheckItem}
    try:
        rows = [
            {
                **{k: r[k] for k in ("name", "label", "unit", "scale", "prior_median", "prior_sd")},
                "median": r["posterior_median"],
                "sd": r["posterior_sd"],
            }
            for r in table["parameters"]
        ]
        checked = {
            "items": tuple(_build_checked(CheckItem, i, known) for i in check["items"]),
            "seconds": check["seconds"],
        }
        notes = table["assumptions"]
        if not isinstance(notes, list) or not all(isinstance(n, str) for n in notes):
            raise ValueError("the assumptions are not texts")
        return ResultFolder(
            tuple(_build_checked(ScalarEstimate, r, known) for r in rows),
            _build_checked(CheckResult, checked, known),
            tuple(notes),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _not_a_result_error(folder, str(error)) from error


def _build_checked(kind: Any, given: Mapping[str, Any], known: Mapping[str, type]) -> Any:
    check_fields(kind, given, known)
    return kind(**given)


def _not_a_result_error(folder: Path, found: str) -> InputError:
    return InputError(
        "not a result folder",
        file=folder,
        found=found,
        expected="parameters.json and check.json",
        remedy="Give the result folder of a fit.",
    )
