"""Write the result folders of simulations and of comparisons of treatment arms, and their pages."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from nanopinn.io.output import atomic_output_folder
from nanopinn.io.volumes import write_bytes, write_json, write_volume
from nanopinn.parameters import HOUR
from nanopinn.physics.cell_kill import KILL_MODELS
from nanopinn.report.figures import as_data_uri, simulation_figures
from nanopinn.report.figures_comparison import (
    arm_maps,
    comparison_figures,
    figure_assumptions,
    plotted_maps,
)
from nanopinn.report.result_files import (
    file_stem,
    format_columns,
    format_tsv,
    render_page,
    write_config_and_provenance,
    write_field,
    write_map,
    write_mask,
)
from nanopinn.report.treatment_summary import mass_balance_rows, mean_peaks_and_aucs
from nanopinn.results import Comparison, Outcome, Simulation

_QUANTILES = ("median", "low_90", "high_90")


def write_simulation(
    out: str | Path, simulation: Simulation, config: Mapping[str, Any], *, overwrite: bool = False
) -> Path:
    """Write the result folder of a forward simulation, all or nothing.

    ``fields/`` holds the drug pools at the imaging times; ``maps/`` pressure, velocity, and peak
    (``peak_*``) and AUC (``auc_*``) of every pool; ``courses.tsv`` tumour means and ``plasma.tsv``
    plasma concentrations at every time step; ``exposure.tsv`` C_max and AUC in plasma;
    ``balance.json`` the mass balance; ``simulation.html`` the page. Without a dose ``flow.tsv``
    holds tumour means of pressure, velocity and filtration in place of the tables of drug.

    Args:
        out: The folder.
        simulation: The result.
        config: Settings by table, as in a configuration file.
        overwrite: Whether an existing result folder may be replaced.

    Raises:
        OutputError: The folder exists and ``overwrite`` is false, or it cannot be written.
    """
    out = Path(out)
    with atomic_output_folder(out, overwrite=overwrite) as part:
        write_simulation_files(part, simulation)
        write_config_and_provenance(part, config, simulation.seconds, simulation.input_hashes)
    return out


def write_simulation_files(folder: Path, s: Simulation) -> None:
    """Write the files of a simulation into an existing folder, without settings and provenance."""
    for f in s.fields.values():
        write_field(folder / "fields", f, s.affine)
    for prefix, maps in (("", s.maps), ("peak_", s.peak_maps), ("auc_", s.auc_maps)):
        for m in maps.values():
            write_map(folder / "maps", m, s.affine, name=f"{prefix}{file_stem(m.name)}")
    write_mask(folder / "maps", s.mask, s.affine)
    c = s.courses
    if c.flow:
        table = format_columns({"time_s": c.times_s, **c.flow}, digits=8)
        write_bytes(folder / "flow.tsv", table)
    plasma = {f"{name}_ug_per_mL": v for name, v in c.plasma.items()}
    tumour = {f"{file_stem(name)}_ug_per_mL": v for name, v in c.tumour.items()}
    for name, columns in (("plasma", plasma), ("courses", tumour)):
        if columns:
            table = format_columns({"time_s": c.times_s, **columns}, digits=8)
            write_bytes(folder / f"{name}.tsv", table)
    if s.exposure:
        write_bytes(folder / "exposure.tsv", _format_plasma_table(s).encode())
    write_json(folder / "balance.json", _mass_balance_entries(s))
    write_bytes(folder / "simulation.html", render_simulation(s).encode())


def _format_plasma_table(s: Simulation) -> str:
    header = "plasma\tc_max_ug_per_mL\tc_max_at_s\tauc_run_ug_h_per_mL\tauc_ever_ug_h_per_mL"
    rows = (
        f"{e.name}\t{e.c_max:.8g}\t{e.t_max_s:.8g}\t{e.auc:.8g}\t{e.auc_to_infinity:.8g}"
        for e in s.exposure
    )
    return "\n".join([header, *rows]) + "\n"


def _mass_balance_entries(s: Simulation) -> dict[str, Any]:
    keys = ("entered_mg", "lost_mg", "outflow_mg", "stored_mg")
    return {
        "pools": {
            name: dict(zip(keys, numbers, strict=True))
            for name, *numbers in (mass_balance_rows(s.balance) if s.balance.names else ())
        },
        "imbalance": s.balance.error,
        "effort": s.solver_statistics,
        "given": list(s.treatment),
        "assumptions": list(s.assumptions),
    }


def render_simulation(simulation: Simulation) -> str:
    """Render the page of a simulation as HTML."""
    return render_page(
        "simulation.html.j2",
        simulation=simulation,
        figures=simulation_figures(simulation),
        means={name: simulation.means(name) for name in simulation.fields},
        hours=[t / HOUR for t in next(iter(simulation.fields.values())).times_s],
        peaks_and_aucs=mean_peaks_and_aucs(simulation),
        balance_rows=mass_balance_rows(simulation.balance),
    )


def write_comparison(
    out: str | Path, comparison: Comparison, config: Mapping[str, Any], *, overwrite: bool = False
) -> Path:
    """Write the result folder of a comparison, all or nothing.

    ``comparison.html`` is the page; ``comparison.json`` and ``outcomes.tsv`` hold the outcomes,
    ``draws.tsv`` every outcome of every draw, ``penetration.tsv`` the penetration curves of the
    tumour and ``penetration_groups.tsv`` those of its clusters of voxels, ``figures/`` PNG and SVG
    files, ``ARM/`` the simulation of each arm, with the maps of the sub-voxel model in ``maps/``.

    Args:
        out: The folder.
        comparison: The result.
        config: Settings by table, as in a configuration file.
        overwrite: Whether an existing result folder may be replaced.

    Raises:
        OutputError: The folder exists and ``overwrite`` is false, or it cannot be written.
    """
    out = Path(out)
    with atomic_output_folder(out, overwrite=overwrite) as part:
        for name, arm in comparison.arms.items():
            write_simulation_files(part / name, arm.simulation)
            for m in arm.maps.values():
                write_map(part / name / "maps", m, comparison.affine)
        _write_tables(part, comparison)
        write_json(part / "comparison.json", _json_entries(comparison))
        figures, notes = comparison_figures(comparison), figure_assumptions(comparison)
        page = render_comparison(comparison, figures)
        write_bytes(part / "comparison.html", page.encode())
        for name, figure in figures.items():
            _write_figure(part / "figures" / name, figure, notes[name])
        write_config_and_provenance(part, config, comparison.seconds, comparison.input_hashes)
    return out


def _write_figure(stem: Path, figure: Figure, note: str) -> None:
    """Write a figure as PNG and SVG with its assumptions below, which outside the page it needs."""
    width = int(19 * figure.get_figwidth())
    text = "\n".join(textwrap.wrap(note, width))
    figure.supxlabel(text, x=0.01, ha="left", fontsize=7, color="0.35")
    png, svg = io.BytesIO(), io.StringIO()
    FigureCanvasAgg(figure)
    figure.savefig(png, format="png", dpi=300)
    FigureCanvasSVG(figure)
    figure.savefig(svg, format="svg")
    write_bytes(stem.with_suffix(".png"), png.getvalue())
    write_bytes(stem.with_suffix(".svg"), svg.getvalue().encode())


def _write_tables(folder: Path, c: Comparison) -> None:
    outcomes = [
        {
            "outcome": o.name,
            "unit": o.unit,
            "words": o.description,
            **{
                f"{arm}_{q}": f"{v:.6g}"
                for arm in c.arms
                for q, v in zip(_QUANTILES, o.interval(arm), strict=True)
            },
        }
        for o in c.outcomes
    ]
    write_bytes(folder / "outcomes.tsv", format_tsv(outcomes))
    draws = {f"{arm}: {o.name}": o.values[arm] for o in c.outcomes for arm in c.arms}
    write_bytes(folder / "draws.tsv", format_columns({"draw": range(c.draws + 1), **draws}))
    write_bytes(folder / "penetration.tsv", format_columns(_penetration_columns(c)))
    write_bytes(folder / "penetration_groups.tsv", format_columns(_cluster_columns(c)))
    side = {"Description": "group of every voxel, -1 outside"}
    write_volume(folder / "groups.nii.gz", c.labels.astype(float), c.affine, sidecar=side)


def _json_entries(c: Comparison) -> dict[str, Any]:
    arms = {
        name: {
            "given": list(a.simulation.treatment),
            "imbalance_voxels": a.simulation.balance.error,
            "imbalance_cylinders": a.mass_balance_error,
            "probability_that_half_beyond_is_lethal": {
                model: _finite_or_none(c.probability(name, model)) for model in KILL_MODELS
            },
        }
        for name, a in c.arms.items()
    }
    outcomes = {
        o.name: {
            "unit": o.unit,
            "words": o.description,
            **{arm: _interval_entries(o, arm) for arm in c.arms},
        }
        for o in c.outcomes
    }
    influences = [
        {"symbol": i.symbol, "words": i.description, "morris": i.morris, "sobol_total": i.total}
        for i in c.sensitivities
    ]
    return {
        "answer": list(c.conclusions),
        "draws": c.draws,
        "prior_only": c.prior_only,
        "limit_um": c.limit_um,
        "lethal_survival": c.lethal_survival,
        "arms": arms,
        "outcomes": outcomes,
        "influences": influences,
        "radiation": _radiation_entries(c),
        "assumptions": list(c.assumptions),
    }


def _radiation_entries(c: Comparison) -> dict[str, Any] | None:
    if c.radiation is None:
        return None
    rows = [
        {
            "words": r.description,
            "unit": r.unit,
            "ratio": list(r.ratio),
            "likelier": r.probability_higher,
        }
        for r in c.radiation.rows
    ]
    return {"arm": c.radiation.arm, "at_h": c.radiation.pressure_time_h, "rows": rows}


def _interval_entries(o: Outcome, arm: str) -> dict[str, float | None]:
    values = zip(_QUANTILES, o.interval(arm), strict=True)
    return {name: _finite_or_none(v) for name, v in values}


def _finite_or_none(v: float) -> float | None:
    return v if np.isfinite(v) else None


def _penetration_columns(c: Comparison) -> dict[str, Any]:
    """Columns of the penetration curves of the tumour."""
    columns: dict[str, Any] = {"distance_um": next(iter(c.arms.values())).curves.distance_um}
    for arm, a in c.arms.items():
        for i, q in enumerate(_QUANTILES):
            columns[f"{arm}_peak_ng_per_1e5_cells_{q}"] = a.curves.peak[i]
            columns |= {f"{arm}_survival_{m}_{q}": s[i] for m, s in a.curves.survival.items()}
        columns |= {
            f"{arm}_cells_{t:g}h_ng_per_1e5_cells": a.curves.cells[0, j]
            for j, t in enumerate(a.curves.times_h)
        }
    return columns


def _cluster_columns(c: Comparison) -> dict[str, Any]:
    """Columns of the peak intracellular concentration in each cluster of ``groups.nii.gz``."""
    distance = next(iter(c.arms.values())).curves.distance_um
    clusters = len(c.groups)
    return {
        "group": np.repeat(np.arange(clusters), len(distance)),
        "distance_um": np.tile(distance, clusters),
        **{
            f"{arm}_{q}": a.cluster_peak_concentration[i].ravel()
            for arm, a in c.arms.items()
            for i, q in enumerate(_QUANTILES)
        },
    }


def render_comparison(comparison: Comparison, figures: Mapping[str, Figure]) -> str:
    """Render the page of a comparison as HTML.

    Args:
        comparison: The result.
        figures: Figures by name, from :func:`comparison_figures`.
    """
    first = next(iter(comparison.arms.values()))
    rows = [
        {
            "description": o.description,
            "unit": o.unit,
            "cells": [_format_outcome(o, arm) for arm in comparison.arms],
        }
        for o in comparison.outcomes
    ]
    return render_page(
        "comparison.html.j2",
        comparison=comparison,
        rows=rows,
        maps=plotted_maps(comparison),
        description={name: m.description for name, m in arm_maps(first).items()},
        exposure=_plasma_exposure_rows(comparison),
        figures={name: as_data_uri(f) for name, f in figures.items()},
        primary_kill_model=KILL_MODELS["peak"].name,
        notes=figure_assumptions(comparison),
    )


def _format_outcome(o: Outcome, arm: str) -> str:
    median, low, high = o.interval(arm)
    if not np.isfinite(median):
        return "none"
    if o.unit == "1":
        return f"{median:.0%} ({low:.0%} to {high:.0%})"
    return f"{median:.3g} ({low:.3g} to {high:.3g})"


def _plasma_exposure_rows(c: Comparison) -> list[dict[str, Any]]:
    """Rows of C_max and AUC in plasma for each kind of drug, by arm."""
    found = {arm: {e.name: e for e in a.simulation.exposure} for arm, a in c.arms.items()}
    rows = []
    for name in dict.fromkeys(n for exposures in found.values() for n in exposures):
        for quantity, unit, field in (
            ("C_max", "ug/mL", "c_max"),
            ("AUC to infinity", "ug h/mL", "auc_to_infinity"),
        ):
            numbers = [getattr(e[name], field) if name in e else 0.0 for e in found.values()]
            if any(numbers):
                cells = [f"{v:.3g}" if v else "-" for v in numbers]
                rows.append({"description": f"{name}, {quantity}", "unit": unit, "cells": cells})
    return rows
