"""The report: one self-contained page, the check first.

A table as a file: TSV for its rows alone, JSON with what is said of them.

The result folder: maps, fields, parameters, check, configuration and provenance, all or nothing.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader

from nanopinn.errors import InputError
from nanopinn.imaging.parametric_maps import ImagingMaps, status_counts
from nanopinn.inference.saved_fit import save_fit
from nanopinn.inference.uncertainty.profile import strongest_correlation
from nanopinn.io.output import atomic_output_folder, reserve_output_file
from nanopinn.io.safe_open import is_file, read_json
from nanopinn.io.serialize import check_fields
from nanopinn.io.volumes import sync_folder, write_bytes, write_json, write_volume
from nanopinn.report.figures import (
    arterial_panel,
    as_data_uri,
    fit_figures,
    motion_panel,
    overlay_panel,
)
from nanopinn.report.fit_summary import describe_information, describe_profile
from nanopinn.report.plan_summary import describe_plan, plan_rows
from nanopinn.results.fit_result import CheckItem, CheckResult, FitResult, ScalarEstimate

if TYPE_CHECKING:
    from nanopinn.results.plan_result import Plan

if TYPE_CHECKING:
    from nanopinn.imaging.parametric_maps import ImagingMaps


def render_report(imaging: ImagingMaps, fit: FitResult) -> str:
    """The page as text; figures travel inside it, and every value from outside is escaped."""
    environment = Environment(loader=PackageLoader("nanopinn", "report"), autoescape=True)
    template = environment.get_template("report.html.j2")
    return template.render(
        fit=fit,
        imaging=imaging,
        figures=fit_figures(fit),
        imaging_figures=_imaging_panels(imaging),
        status=status_counts(imaging),
        engines=_engines(fit),
        information=describe_information(fit),
        partners=_correlation_partners(fit),
        profile_texts=[describe_profile(p) for p in fit.profiles.values()],
    )


def _correlation_partners(fit: FitResult) -> dict[str, str]:
    """Label and correlation of the strongest partner of every unknown that has one."""
    names, labels = [s.name for s in fit.scalars], {s.name: s.label for s in fit.scalars}
    found = {name: strongest_correlation(names, fit.covariance, name) for name in names}
    return {
        name: f"{labels[c.partner]} ({c.strength:+.2f})"
        for name, c in found.items()
        if c is not None
    }


def _imaging_panels(imaging: ImagingMaps) -> dict[str, str]:
    found = {"arterial input": arterial_panel(imaging)}
    if np.isfinite(imaging.ph).any():
        found["overlay"] = overlay_panel(imaging)
    if imaging.motion is not None:
        found["motion"] = motion_panel(imaging)
    return {name: as_data_uri(figure) for name, figure in found.items()}


def _engines(fit: FitResult) -> list[dict[str, Any]]:
    return [
        {"name": n, "run": r, "values": {s.name: s for s in r.scalars}} for n, r in fit.runs.items()
    ]


SUFFIXES = (".json", ".tsv")


@contextmanager
def reserve_table_file(out: Path | None, *, overwrite: bool) -> Iterator[None]:
    """Hold a file for a table, before anything is computed and until it is written; None: there
    will be none.

    Raises:
        InputError: it is neither JSON nor TSV by its name.
        OutputError: it exists and ``overwrite`` is false, another run is writing it, or its folder
            cannot be written.
    """
    if out is None:
        yield
        return
    if out.suffix not in SUFFIXES:
        raise InputError(
            "not a file for a table",
            file=out,
            field="--out",
            found=out.suffix,
            expected=" or ".join(SUFFIXES),
        )
    with reserve_output_file(out, overwrite=overwrite):
        yield


def write_table(
    out: Path,
    rows: Sequence[Mapping[str, Any]],
    metadata: Mapping[str, Any],
    *,
    name: str = "rows",
    overwrite: bool = False,
) -> Path:
    """Write a table, all or nothing.

    Args:
        said: what a JSON file holds beside the rows, which stand under ``name``.

    Raises:
        InputError, OutputError: see :func:`reserve_table_file`.
    """
    with reserve_table_file(out, overwrite=overwrite):
        if out.suffix == ".json":
            write_json(out, {**metadata, name: [dict(r) for r in rows]})
        else:
            write_bytes(out, format_tsv(rows))
        sync_folder(out.absolute().parent)
    return out


def format_tsv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> bytes:
    """Rows as a TSV: one line each, whatever stands in a cell; nothing and NaN are ``n/a``, as BIDS
    has it.

    Args:
        heads: of the columns; those of the first row if not given.
    """
    columns = columns or tuple(rows[0])
    lines = [
        "\t".join(_cell(h) for h in columns),
        *("\t".join(_cell(row[h]) for h in columns) for row in rows),
    ]
    return ("\n".join(lines) + "\n").encode()


def _cell(value: Any) -> str:
    text = " ".join(str(value).split())
    return "n/a" if value is None or value != value or not text else text


def write_plan(
    out: Path, plan: Plan, settings: Mapping[str, Any], *, overwrite: bool = False
) -> Path:
    """Write a plan: one row per unknown and addition; as JSON with protocol, settings and words
    too.

    Raises:
        InputError, OutputError: see :func:`reserve_table_file`.
    """
    metadata = {
        "protocol": list(plan.protocol),
        "settings": dict(settings),
        "in_words": describe_plan(plan),
        "seconds": plan.seconds,
    }
    return write_table(out, plan_rows(plan), metadata, name="expected", overwrite=overwrite)


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
        inputs: SHA-256 of every file that was read, by name.

    Raises:
        OutputError: it exists and ``overwrite`` is false, or it cannot be written.
    """
    with atomic_output_folder(out, overwrite=overwrite) as part:
        _write_maps(part, imaging, fit)
        _write_tables(part, fit)
        write_bytes(part / "config.toml", to_toml(config).encode())
        save_fit(fit, part)
        write_bytes(part / "report.html", report.encode())
        recovered = {name: list(r.events) for name, r in fit.runs.items()}
        write_json(
            part / "provenance.json",
            provenance(fit.seconds, inputs, config["fit"]) | {"recovered_from": recovered},
        )
    return out


def copy_result(folder: Path, out: Path, *, overwrite: bool = False) -> Path:
    """Copy a result folder, all or nothing.

    Raises:
        OutputError: ``out`` exists and ``overwrite`` is false, or it cannot be written.
    """
    with atomic_output_folder(out, overwrite=overwrite) as part:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            write_bytes(part / file.relative_to(folder), file.read_bytes())
    return out


def _write_maps(part: Path, imaging: ImagingMaps, fit: FitResult) -> None:
    for m in fit.maps.values():
        side = {"Unit": m.unit, "Description": m.description, "Source": m.source}
        write_volume(part / "maps" / f"{m.name}.nii.gz", m.values, fit.affine, sidecar=side)
        if m.std is not None:
            side = {**side, "Description": f"posterior standard deviation of {m.name}"}
            write_volume(part / "maps" / f"{m.name}_std.nii.gz", m.std, fit.affine, sidecar=side)
    for v in fit.vectors.values():
        side = {
            "Unit": v.unit,
            "Description": v.description,
            "Components": "along the voxel axes x, y, z",
        }
        write_volume(part / "maps" / f"{v.name}.nii.gz", v.values, fit.affine, sidecar=side)
    side = {
        "Unit": "1",
        "Description": "bit field of the kinetic fit; 0 is a voxel without complaint",
    }
    write_volume(part / "maps" / "status.nii.gz", imaging.status, fit.affine, sidecar=side)
    write_volume(
        part / "maps" / "mask.nii.gz",
        fit.mask.astype(float),
        fit.affine,
        sidecar={"Description": "tumour"},
    )
    for f in fit.fields.values():
        times = [float(t) for t in f.times_s]
        about = {"Unit": f.unit, "Description": f.description, "FrameTimes": times}
        write_volume(part / "fields" / f"{f.name}.nii.gz", f.values, fit.affine, sidecar=about)


def _write_tables(part: Path, fit: FitResult) -> None:
    rows = [_row(s) for s in fit.scalars]
    engines = {
        name: {
            "message": r.message,
            "converged": r.converged,
            "stats": dict(r.stats),
            "recovered_from": list(r.events),
            "objective": list(r.objective),
            "scalars": [_row(s) for s in r.scalars],
        }
        for name, r in fit.runs.items()
    }
    content = {
        "parameters": rows,
        "covariance": np.asarray(fit.covariance).tolist(),
        "engines": engines,
        "engine_distance_in_posterior_sd": dict(fit.engine_distance),
        "assumptions": list(fit.assumptions),
        "in_words": describe_information(fit),
    }
    write_json(part / "parameters.json", content)
    lines = ["\t".join(rows[0])] + ["\t".join(str(v) for v in row.values()) for row in rows]
    write_bytes(part / "parameters.tsv", ("\n".join(lines) + "\n").encode())
    write_json(
        part / "check.json",
        {
            "passed": fit.check.passed,
            "headline": fit.check.headline,
            "seconds": fit.check.seconds,
            "items": [asdict(i) for i in fit.check.items],
        },
    )


def _row(s: ScalarEstimate) -> dict[str, Any]:
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


def provenance(
    seconds: Mapping[str, float], inputs: Mapping[str, str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Versions, seed, device, durations, and the inputs by name and SHA-256; no paths, no header
    text.
    """
    packages = ("nanopinn", "torch", "numpy", "scipy", "nibabel", "monai")
    return {
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        **{k: settings[k] for k in ("seed", "device") if k in settings},
        "seconds": {k: round(v, 3) for k, v in seconds.items()},
        "inputs": dict(inputs),
    }


def write_config_and_provenance(
    part: Path,
    config: Mapping[str, Any],
    seconds: Mapping[str, float],
    input_hashes: Mapping[str, str],
) -> None:
    """Write what a run was told and where it came from: ``config.toml`` and ``provenance.json``."""
    settings = {k: v for table in config.values() for k, v in table.items()}
    write_bytes(part / "config.toml", to_toml(config).encode())
    write_json(part / "provenance.json", provenance(seconds, input_hashes, settings))


def to_toml(config: Mapping[str, Any]) -> str:
    """Tables of strings, numbers, booleans, and lists and tables of them, as TOML; None is left
    out.
    """
    lines: list[str] = []
    for table, entries in config.items():
        lines.append(f"[{table}]")
        lines += [f"{k} = {_toml(v)}" for k, v in entries.items() if v is not None]
        lines.append("")
    return "\n".join(lines)


def _toml(v: Any) -> str:
    if isinstance(v, Mapping):
        inside = (f"{k} = {_toml(w)}" for k, w in v.items() if w is not None)
        return "{" + ", ".join(inside) + "}"
    if isinstance(v, (list, tuple)):
        return "[" + ", ".join(map(_toml, v)) + "]"
    if isinstance(v, Path):
        v = str(v)
    # JSON writes strings, numbers and booleans as TOML does, but for one sign, and for those that it
    # would write as two
    return json.dumps(v, ensure_ascii=False).replace("\x7f", "\\u007f")


@dataclass(frozen=True)
class ResultFolder:
    """The tables of a result folder, read back."""

    scalars: tuple[ScalarEstimate, ...]
    check: CheckResult
    assumptions: tuple[str, ...]


def read_result(folder: Path) -> ResultFolder:
    """Read a result folder's tables.

    Raises:
        InputError: it is no result folder.
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
            raise ValueError("assumptions that are no texts")
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
        remedy="Give the --out of a fit.",
    )
