"""Writers that all result folders share: pages, tables, maps with sidecars, and provenance."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.io.output import reserve_output_file
from nanopinn.io.volumes import sync_folder, write_bytes, write_json, write_volume
from nanopinn.results import FieldEstimate, MapEstimate

Array = NDArray[np.float64]
RESULT_TABLE_SUFFIXES = (".json", ".tsv")
_PACKAGES = ("nanopinn", "torch", "numpy", "scipy", "nibabel", "monai")


def render_page(template: str, **context: Any) -> str:
    """Render a self-contained HTML page; every value is escaped.

    Args:
        template: Name of the template, such as ``report.html.j2``.
        context: Values of its variables.
    """
    return _environment().get_template(template).render(**context)


@cache
def _environment() -> Environment:
    return Environment(loader=PackageLoader("nanopinn", "report"), autoescape=True)


def format_tsv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> bytes:
    """Format rows as a TSV file, one line each.

    Line breaks and tabs in a cell become spaces. Empty cells and NaN become ``n/a``, as in BIDS.

    Args:
        rows: Cells by column.
        columns: Names of the columns; those of the first row if empty.
    """
    columns = columns or tuple(rows[0])
    lines = [
        "\t".join(_format_cell(c) for c in columns),
        *("\t".join(_format_cell(row[c]) for c in columns) for row in rows),
    ]
    return ("\n".join(lines) + "\n").encode()


def _format_cell(value: Any) -> str:
    text = " ".join(str(value).split())
    return "n/a" if value is None or value != value or not text else text


def format_columns(columns: Mapping[str, Sequence[float] | Array], digits: int = 6) -> bytes:
    """Format columns of numbers as a TSV file.

    Args:
        columns: Numbers ``(row,)`` by name of the column.
        digits: Significant digits.
    """
    rows = zip(*columns.values(), strict=True)
    lines = ["\t".join(columns), *("\t".join(f"{v:.{digits}g}" for v in row) for row in rows)]
    return ("\n".join(lines) + "\n").encode()


@contextmanager
def reserve_table_file(out: Path | None, *, overwrite: bool) -> Iterator[None]:
    """Reserve a file for a table until the table is written.

    Args:
        out: The file; None reserves nothing.
        overwrite: Whether an existing file may be replaced.

    Raises:
        InputError: The name ends neither with ``.json`` nor with ``.tsv``.
        OutputError: The file exists and ``overwrite`` is false, another run writes it, or its
            folder cannot be written.
    """
    if out is None:
        yield
        return
    if out.suffix not in RESULT_TABLE_SUFFIXES:
        raise InputError(
            "not the name of a table",
            file=out,
            field="out",
            found=out.suffix,
            expected=" or ".join(RESULT_TABLE_SUFFIXES),
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
    """Write a table as TSV or JSON, all or nothing.

    Args:
        out: The file.
        rows: Cells by column.
        metadata: Further entries of a JSON file.
        name: Key of the rows in a JSON file.
        overwrite: Whether an existing file may be replaced.

    Raises:
        InputError: See :func:`reserve_table_file`.
        OutputError: See :func:`reserve_table_file`.
    """
    with reserve_table_file(out, overwrite=overwrite):
        if out.suffix == ".json":
            write_json(out, {**metadata, name: [dict(r) for r in rows]})
        else:
            write_bytes(out, format_tsv(rows))
        sync_folder(out.absolute().parent)
    return out


def write_map(
    folder: Path, m: MapEstimate, affine: Array, *, name: str = "", std_description: str = ""
) -> None:
    """Write a map with its sidecar, and its standard deviation if it has one.

    Args:
        folder: Folder of the files.
        m: The map.
        affine: Affine of the image ``(4, 4)``.
        name: Name of the file; that of the map if empty.
        std_description: Description of the standard deviation; that of the map if empty.
    """
    name = name or m.name
    side = {"Unit": m.unit, "Description": m.description, "Source": m.source}
    write_volume(folder / f"{name}.nii.gz", m.values, affine, sidecar=side)
    if m.std is not None:
        side |= {"Description": std_description or m.description}
        write_volume(folder / f"{name}_std.nii.gz", m.std, affine, sidecar=side)


def write_field(folder: Path, f: FieldEstimate, affine: Array) -> None:
    """Write a field over time with its sidecar."""
    side = {
        "Unit": f.unit,
        "Description": f.description,
        "FrameTimes": [float(t) for t in f.times_s],
    }
    write_volume(folder / f"{file_stem(f.name)}.nii.gz", f.values, affine, sidecar=side)


def write_mask(folder: Path, mask: NDArray[np.bool_], affine: Array) -> None:
    """Write the tumour mask."""
    side = {"Description": "tumour"}
    write_volume(folder / "mask.nii.gz", mask.astype(float), affine, sidecar=side)


def file_stem(name: str) -> str:
    """Name of a quantity as a file name."""
    return name.replace(" ", "_")


def write_config_and_provenance(
    folder: Path,
    config: Mapping[str, Any],
    seconds: Mapping[str, float],
    input_hashes: Mapping[str, str],
    **more: Any,
) -> None:
    """Write the settings of a run and its provenance: ``config.toml`` and ``provenance.json``.

    The provenance holds versions, seed, device, durations and inputs by name and SHA-256. It holds
    no paths and no text of image headers.

    Args:
        folder: The result folder.
        config: Settings by table.
        seconds: Duration of each part.
        input_hashes: SHA-256 of each input file, by name.
        more: Further entries of the provenance.
    """
    settings = {k: v for table in config.values() for k, v in table.items()}
    write_bytes(folder / "config.toml", to_toml(config).encode())
    provenance = {
        "versions": {"python": platform.python_version(), **{p: version(p) for p in _PACKAGES}},
        **{k: settings[k] for k in ("seed", "device") if k in settings},
        "seconds": {k: round(v, 3) for k, v in seconds.items()},
        "inputs": dict(input_hashes),
    }
    write_json(folder / "provenance.json", provenance | more)


def to_toml(config: Mapping[str, Any]) -> str:
    """Format tables of settings as TOML; None is left out.

    Args:
        config: Strings, numbers, booleans, and lists and tables of them, by table and key.
    """
    lines: list[str] = []
    for table, entries in config.items():
        lines.append(f"[{table}]")
        lines += [f"{k} = {_format_toml(v)}" for k, v in entries.items() if v is not None]
        lines.append("")
    return "\n".join(lines)


def _format_toml(v: Any) -> str:
    if isinstance(v, Mapping):
        inside = (f"{k} = {_format_toml(w)}" for k, w in v.items() if w is not None)
        return "{" + ", ".join(inside) + "}"
    if isinstance(v, (list, tuple)):
        return "[" + ", ".join(map(_format_toml, v)) + "]"
    # JSON writes strings, numbers and booleans as TOML does, except for the character DEL and for
    # characters that it would escape as surrogate pairs
    text = str(v) if isinstance(v, Path) else v
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
