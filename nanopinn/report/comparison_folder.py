"""The folder of a comparison: a page, figures as PNG and SVG, tables, maps, and every arm as its
own forward run.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from nanopinn.io.output import atomic_output_folder
from nanopinn.io.volumes import write_bytes, write_json, write_volume
from nanopinn.physics.cell_kill import KILL_MODELS
from nanopinn.report.figures import as_data_uri
from nanopinn.report.figures_comparison import (
    arm_maps,
    comparison_figures,
    figure_assumptions,
    plotted_maps,
)
from nanopinn.report.result_folder import write_config_and_provenance
from nanopinn.report.simulation_folder import write_simulation_files
from nanopinn.results.comparison_result import Comparison, Outcome


def write_comparison(
    out: str | Path, c: Comparison, config: Mapping[str, Any], *, overwrite: bool = False
) -> Path:
    """Write the folder of a comparison, all or nothing.

    ``comparison.html`` answers the question, ``comparison.json`` and ``outcomes.tsv`` hold its
    numbers, ``draws.tsv`` every outcome of every draw, ``penetration.tsv`` the curves of the tumour
    and ``penetration_groups.tsv`` those of its groups, ``figures/`` PNG and SVG, ``ARM/`` what
    ``nanopinn simulate`` writes of one treatment, with ``maps/`` of what happens under the voxels.

    Args:
        config: tables of settings, as a configuration file holds them.

    Raises:
        OutputError: it exists and ``overwrite`` is false, or it cannot be written.
    """
    out = Path(out)
    with atomic_output_folder(out, overwrite=overwrite) as part:
        for name, arm in c.arms.items():
            write_simulation_files(part / name, arm.simulation)
            for m in arm.maps.values():
                side = {"Unit": m.unit, "Description": m.description, "Source": m.source}
                write_volume(
                    part / name / "maps" / f"{m.name}.nii.gz", m.values, c.affine, sidecar=side
                )
                if m.std is not None:
                    write_volume(
                        part / name / "maps" / f"{m.name}_std.nii.gz", m.std, c.affine, sidecar=side
                    )
        _write_tables(part, c)
        figures, figure_notes = comparison_figures(c), figure_assumptions(c)
        write_bytes(part / "comparison.html", render_comparison(c, figures).encode())
        for name, figure in figures.items():
            _write_figure(part / "figures" / name, figure, figure_notes[name])
        write_config_and_provenance(part, config, c.seconds, c.input_hashes)
    return out


def _write_figure(stem: Path, figure: Figure, figure_notes: str) -> None:
    """Write a figure with what it assumes below it: once it leaves the folder no page says so."""
    width = int(19 * figure.get_figwidth())
    figure.supxlabel(
        "\n".join(textwrap.wrap(figure_notes, width)), x=0.01, ha="left", fontsize=7, color="0.35"
    )
    png, svg = io.BytesIO(), io.StringIO()
    FigureCanvasAgg(figure)
    figure.savefig(png, format="png", dpi=300)
    FigureCanvasSVG(figure)
    figure.savefig(svg, format="svg")
    write_bytes(stem.with_suffix(".png"), png.getvalue())
    write_bytes(stem.with_suffix(".svg"), svg.getvalue().encode())


def _write_tables(part: Path, c: Comparison) -> None:
    heads = [
        "outcome",
        "unit",
        "words",
        *(f"{arm}_{q}" for arm in c.arms for q in ("median", "low_90", "high_90")),
    ]
    lines = ["\t".join(heads)]
    for o in c.outcomes:
        numbers = [f"{v:.6g}" for arm in c.arms for v in o.interval(arm)]
        lines.append("\t".join([o.name, o.unit, o.description, *numbers]))
    write_bytes(part / "outcomes.tsv", ("\n".join(lines) + "\n").encode())
    columns = {f"{arm}: {o.name}": o.values[arm] for o in c.outcomes for arm in c.arms}
    rows = ["\t".join(["draw", *columns])]
    rows += [
        "\t".join([str(i), *(f"{v[i]:.6g}" for v in columns.values())]) for i in range(c.draws + 1)
    ]
    write_bytes(part / "draws.tsv", ("\n".join(rows) + "\n").encode())
    write_bytes(part / "penetration.tsv", _curves(c).encode())
    write_bytes(part / "penetration_groups.tsv", _format_cluster_penetration_table(c).encode())
    write_volume(
        part / "groups.nii.gz",
        c.labels.astype(float),
        c.affine,
        sidecar={"Description": "group of every voxel, -1 outside"},
    )
    arms = {
        name: {
            "given": list(a.simulation.treatment),
            "imbalance_voxels": a.simulation.balance.error,
            "imbalance_cylinders": a.mass_balance_error,
            "probability_that_half_beyond_is_lethal": {
                law: _finite(c.probability(name, law)) for law in KILL_MODELS
            },
        }
        for name, a in c.arms.items()
    }
    content = {
        "answer": list(c.conclusions),
        "draws": c.draws,
        "limit_um": c.limit_um,
        "lethal_survival": c.lethal,
        "arms": arms,
        "outcomes": {
            o.name: {
                "unit": o.unit,
                "words": o.description,
                **{arm: _interval_entries(o, arm) for arm in c.arms},
            }
            for o in c.outcomes
        },
        "influences": [
            {"symbol": i.symbol, "words": i.description, "morris": i.morris, "sobol_total": i.total}
            for i in c.sensitivities
        ],
        "radiation": None if c.radiation is None else asdict(c.radiation),
        "assumptions": list(c.assumptions),
    }
    write_json(part / "comparison.json", content)


def _interval_entries(o: Outcome, arm: str) -> dict[str, float | None]:
    return {
        name: _finite(v)
        for name, v in zip(("median", "low_90", "high_90"), o.interval(arm), strict=True)
    }


def _finite(v: float) -> float | None:
    return v if np.isfinite(v) else None


def _curves(c: Comparison) -> str:
    first = next(iter(c.arms.values())).curves
    columns = {"distance_um": first.distance_um}
    for arm, a in c.arms.items():
        for i, q in enumerate(("median", "low_90", "high_90")):
            columns[f"{arm}_peak_ng_per_1e5_cells_{q}"] = a.curves.peak[i]
            columns |= {f"{arm}_survival_{law}_{q}": s[i] for law, s in a.curves.survival.items()}
        columns |= {
            f"{arm}_cells_{t:g}h_ng_per_1e5_cells": a.curves.cells[0, j]
            for j, t in enumerate(a.curves.times_h)
        }
    rows = [
        "\t".join(columns),
        *("\t".join(f"{v:.6g}" for v in row) for row in np.stack(list(columns.values()), axis=1)),
    ]
    return "\n".join(rows) + "\n"


def _format_cluster_penetration_table(c: Comparison) -> str:
    """Largest drug in cells against distance, in each group of voxels that ``groups.nii.gz``
    numbers.
    """
    distance = next(iter(c.arms.values())).curves.distance_um
    heads = [
        "group",
        "distance_um",
        *(f"{arm}_{q}" for arm in c.arms for q in ("median", "low_90", "high_90")),
    ]
    rows = ["\t".join(heads)]
    for g in range(len(c.groups)):
        columns = [a.cluster_peak_concentration[q, g] for a in c.arms.values() for q in range(3)]
        rows += [
            "\t".join([str(g), *(f"{v:.6g}" for v in row)])
            for row in np.stack([distance, *columns], axis=1)
        ]
    return "\n".join(rows) + "\n"


def render_comparison(c: Comparison, figures: Mapping[str, Figure]) -> str:
    """The page as text; figures travel inside it, and every value from outside is escaped."""
    environment = Environment(loader=PackageLoader("nanopinn", "report"), autoescape=True)
    first = next(iter(c.arms.values()))
    rows = [
        {"words": o.description, "unit": o.unit, "cells": [_cell(o, a) for a in c.arms]}
        for o in c.outcomes
    ]
    return environment.get_template("comparison.html.j2").render(
        c=c,
        rows=rows,
        maps=plotted_maps(c),
        description={n: m.description for n, m in arm_maps(first).items()},
        exposure=_plasma_exposure_rows(c),
        figures={name: as_data_uri(f) for name, f in figures.items()},
        figure_notes=figure_assumptions(c),
        primary_kill_model=KILL_MODELS["peak"].name,
    )


def _cell(o: Outcome, arm: str) -> str:
    median, low, high = o.interval(arm)
    if not np.isfinite(median):
        return "none"
    if o.unit == "1":
        return f"{median:.0%} ({low:.0%} to {high:.0%})"
    return f"{median:.3g} ({low:.3g} to {high:.3g})"


def _plasma_exposure_rows(c: Comparison) -> list[dict[str, Any]]:
    """Plasma: the largest concentration and the area of each kind of drug, by arm."""
    found = {arm: {e.name: e for e in a.simulation.exposure} for arm, a in c.arms.items()}
    rows = []
    for name in dict.fromkeys(n for of in found.values() for n in of):
        for words, unit, key in (
            ("largest", "ug/mL", "highest"),
            ("area under the curve, all times", "ug h/mL", "auc_to_infinity"),
        ):
            numbers = [getattr(of[name], key) if name in of else 0.0 for of in found.values()]
            if any(numbers):
                rows.append(
                    {
                        "words": f"{name}, {words}",
                        "unit": unit,
                        "cells": [f"{v:.3g}" if v else "-" for v in numbers],
                    }
                )
    return rows
