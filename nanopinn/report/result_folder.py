"""Write and read the result folder of a fit: report, maps, fields, parameters and check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanopinn.errors import InputError
from nanopinn.imaging.parametric_maps import (
    ImagingMaps,
    format_imaging_summary,
    status_counts,
)
from nanopinn.inference.saved_fit import save_fit
from nanopinn.inference.uncertainty.profile import strongest_correlation
from nanopinn.io.output import atomic_output_folder
from nanopinn.io.safe_open import is_file, read_json
from nanopinn.io.serialize import check_fields
from nanopinn.io.volumes import write_bytes, write_json, write_volume
from nanopinn.report.figures import as_data_uri, fit_figures
from nanopinn.report.figures_imaging import input_figures
from nanopinn.report.fit_summary import describe_information, describe_profile
from nanopinn.report.result_files import (
    format_tsv,
    render_page,
    write_config_and_provenance,
    write_field,
    write_map,
    write_mask,
)
from nanopinn.results.fit_result import CheckItem, CheckResult, FitResult, ScalarEstimate


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
        "in_words": describe_information(fit),
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
