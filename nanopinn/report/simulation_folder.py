"""The folder of a forward run: fields, maps, plasma, balance of mass, a page, and how it all came
about.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader

from nanopinn.io.output import atomic_output_folder
from nanopinn.io.volumes import write_bytes, write_json, write_volume
from nanopinn.report.figures import simulation_figures
from nanopinn.report.result_folder import write_config_and_provenance
from nanopinn.results.simulation_result import Simulation


def write_simulation(
    out: str | Path, simulation: Simulation, config: Mapping[str, Any], *, overwrite: bool = False
) -> Path:
    """Write the folder of a forward run, all or nothing.

    ``fields/`` holds the pools at the imaging times, ``maps/`` pressure, velocity, and peaks and
    areas (``auc_*``) of every pool, ``courses.tsv`` tumour means and ``plasma.tsv`` concentrations
    at every step, ``exposure.tsv`` areas and peaks in plasma, ``balance.json`` the balance of mass,
    ``simulation.html`` a page to look at.

    Args:
        config: tables of settings, as a configuration file holds them.

    Raises:
        OutputError: it exists and ``overwrite`` is false, or it cannot be written.
    """
    out = Path(out)
    with atomic_output_folder(out, overwrite=overwrite) as part:
        write_simulation_files(part, simulation)
        write_config_and_provenance(part, config, simulation.seconds, simulation.input_hashes)
    return out


def write_simulation_files(part: Path, simulation: Simulation) -> None:
    """Write all that is of the run itself into a folder that something else makes."""
    _write_volumes(part, simulation)
    c = simulation.courses
    _write_table(
        part / "plasma.tsv",
        {"time_s": c.times_s, **{f"{n}_ug_per_mL": v for n, v in c.plasma.items()}},
    )
    _write_table(
        part / "courses.tsv",
        {"time_s": c.times_s, **{f"{_stem(n)}_ug_per_mL": v for n, v in c.tumour.items()}},
    )
    write_bytes(part / "exposure.tsv", _format_plasma_table(simulation).encode())
    write_json(part / "balance.json", _mass_balance_entries(simulation))
    write_bytes(part / "simulation.html", render_simulation(simulation).encode())


def _stem(name: str) -> str:
    return name.replace(" ", "_")


def _write_volumes(part: Path, s: Simulation) -> None:
    for f in s.fields.values():
        side = {
            "Unit": f.unit,
            "Description": f.description,
            "FrameTimes": [float(t) for t in f.times_s],
        }
        write_volume(part / "fields" / f"{_stem(f.name)}.nii.gz", f.values, s.affine, sidecar=side)
    for prefix, maps in (("", s.maps), ("peak_", s.peak_maps), ("auc_", s.auc_maps)):
        for m in maps.values():
            side = {"Unit": m.unit, "Description": m.description, "Source": m.source}
            write_volume(
                part / "maps" / f"{prefix}{_stem(m.name)}.nii.gz", m.values, s.affine, sidecar=side
            )
    write_volume(
        part / "maps" / "mask.nii.gz",
        s.mask.astype(float),
        s.affine,
        sidecar={"Description": "tumour"},
    )


def _write_table(path: Path, columns: Mapping[str, Any]) -> None:
    rows = [
        "\t".join(columns),
        *("\t".join(f"{v:.8g}" for v in row) for row in np.stack(list(columns.values()), axis=1)),
    ]
    write_bytes(path, ("\n".join(rows) + "\n").encode())


def _format_plasma_table(s: Simulation) -> str:
    head = "plasma\tc_max_ug_per_mL\tc_max_at_s\tauc_run_ug_h_per_mL\tauc_ever_ug_h_per_mL"
    rows = (
        f"{e.name}\t{e.c_max:.8g}\t{e.t_max_s:.8g}\t{e.auc:.8g}\t{e.auc_to_infinity:.8g}"
        for e in s.exposure
    )
    return "\n".join([head, *rows]) + "\n"


def _mass_balance_entries(s: Simulation) -> dict[str, Any]:
    keys = ("entered_mg", "lost_mg", "outflow_mg", "stored_mg")
    return {
        "pools": {
            name: dict(zip(keys, numbers, strict=True)) for name, *numbers in s.balance.rows()
        },
        "imbalance": s.balance.error,
        "effort": s.solver_statistics,
        "given": list(s.treatment),
        "assumptions": list(s.assumptions),
    }


def render_simulation(simulation: Simulation) -> str:
    """The page as text; figures travel inside it, and every value from outside is escaped."""
    environment = Environment(loader=PackageLoader("nanopinn", "report"), autoescape=True)
    means = {name: simulation.means(name) for name in simulation.fields}
    hours = [t / 3600 for t in next(iter(simulation.fields.values())).times_s]
    template = environment.get_template("simulation.html.j2")
    return template.render(
        s=simulation, figures=simulation_figures(simulation), means=means, hours=hours
    )
