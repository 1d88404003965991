"""Write the result folder of a forward simulation, and its page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanopinn.io.output import atomic_output_folder
from nanopinn.io.volumes import write_bytes, write_json
from nanopinn.report.figures import simulation_figures
from nanopinn.report.result_files import (
    file_stem,
    format_columns,
    render_page,
    write_config_and_provenance,
    write_field,
    write_map,
    write_mask,
)
from nanopinn.report.treatment_summary import mass_balance_rows, mean_peaks_and_aucs
from nanopinn.results.simulation_result import Simulation


def write_simulation(
    out: str | Path, simulation: Simulation, config: Mapping[str, Any], *, overwrite: bool = False
) -> Path:
    """Write the result folder of a forward simulation, all or nothing.

    ``fields/`` holds the drug pools at the imaging times; ``maps/`` pressure, velocity, and peak
    (``peak_*``) and AUC (``auc_*``) of every pool; ``courses.tsv`` tumour means and ``plasma.tsv``
    plasma concentrations at every time step; ``exposure.tsv`` C_max and AUC in plasma;
    ``balance.json`` the mass balance; ``simulation.html`` the page.

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
    plasma = {f"{name}_ug_per_mL": v for name, v in c.plasma.items()}
    tumour = {f"{file_stem(name)}_ug_per_mL": v for name, v in c.tumour.items()}
    for name, columns in (("plasma", plasma), ("courses", tumour)):
        table = format_columns({"time_s": c.times_s, **columns}, digits=8)
        write_bytes(folder / f"{name}.tsv", table)
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
            for name, *numbers in mass_balance_rows(s.balance)
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
        hours=[t / 3600 for t in next(iter(simulation.fields.values())).times_s],
        peaks_and_aucs=mean_peaks_and_aucs(simulation),
        balance_rows=mass_balance_rows(simulation.balance),
    )
