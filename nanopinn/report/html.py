"""The report: one self-contained page, the check first."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader

from nanopinn.imaging.maps import ImagingMaps
from nanopinn.inference.result import FitResult
from nanopinn.report.figures import all_figures
from nanopinn.report.imaging import status_counts


def render_report(imaging: ImagingMaps, fit: FitResult) -> str:
    """The page as text; figures travel inside it, and every value from outside is escaped."""
    environment = Environment(loader=PackageLoader("nanopinn", "report"), autoescape=True)
    template = environment.get_template("report.html.j2")
    return template.render(fit=fit, imaging=imaging, figures=all_figures(fit), status=status_counts(imaging), engines=_engines(fit))


def _engines(fit: FitResult) -> list[dict[str, Any]]:
    return [{"name": n, "run": r, "values": {s.name: s for s in r.scalars}} for n, r in fit.runs.items()]
