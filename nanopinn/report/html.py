"""The report: one self-contained page, the check first."""

from __future__ import annotations

from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader

from nanopinn.imaging.maps import ImagingMaps
from nanopinn.inference.result import FitResult
from nanopinn.report.dce_figures import arterial_panel, motion_panel, overlay_panel
from nanopinn.report.figures import fit_figures, as_data_uri
from nanopinn.report.imaging import status_counts


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
        labels={s.name: s.label for s in fit.scalars},
    )


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
