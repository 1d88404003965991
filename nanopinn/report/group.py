"""The tables and the page of a cohort: what needs a look first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader

from nanopinn.imaging.io import write_bytes
from nanopinn.report.figures import as_data_uri
from nanopinn.report.group_figures import forest_panel
from nanopinn.report.grouped import REMEDIES, CohortSummary, CohortParameter, StudySummary
from nanopinn.report.table import format_tsv

_PARAMETER_HEADS = (
    "study",
    "parameter",
    "label",
    "unit",
    "scale",
    "posterior_median",
    "posterior_sd",
    "low_95",
    "high_95",
    "prior_median",
    "prior_sd",
    "contraction",
    "informed",
    "check",
)
_SUMMARY_HEADS = (
    "parameter",
    "label",
    "unit",
    "scale",
    "n_passed",
    "n_informed",
    "median",
    "quartile_1",
    "quartile_3",
    "typical",
    "low_95",
    "high_95",
    "between_sd",
    "prior_median",
    "prior_sd",
    "outliers",
    "outliers_judged",
)
_OUTCOME_HEADS = ("study", "arm", "outcome", "unit", "median", "low_90", "high_90")


def write_group(out: str | Path, group: CohortSummary) -> Path:
    """Write ``group_studies.tsv``, ``group_parameters.tsv``, ``group_summary.tsv``, ``group_outcomes.tsv`` of arms, and ``group.html``.

    Returns:
        The page, which is written last.

    Raises:
        OutputError: the folder cannot be written.
    """
    out = Path(out)
    write_bytes(
        out / "group_studies.tsv",
        format_tsv([_study_row(s) for s in group.studies], _study_heads(group)),
    )
    write_bytes(out / "group_parameters.tsv", format_tsv(_parameter_rows(group), _PARAMETER_HEADS))
    write_bytes(
        out / "group_summary.tsv",
        format_tsv([_summary_row(p) for p in group.parameters], _SUMMARY_HEADS),
    )
    rows = [
        dict(
            zip(
                _OUTCOME_HEADS,
                (s.id, o.arm, o.outcome, o.unit, o.median, o.low, o.high),
                strict=True,
            )
        )
        for s in group.studies
        for o in s.outcomes
    ]
    if rows:
        write_bytes(out / "group_outcomes.tsv", format_tsv(rows, _OUTCOME_HEADS))
    else:
        (out / "group_outcomes.tsv").unlink(missing_ok=True)
    write_bytes(out / "group.html", render_group(group).encode())
    return out / "group.html"


def _study_heads(group: CohortSummary) -> tuple[str, ...]:
    """Ours, then the participants' columns; one that has the name of ours is told apart."""
    return tuple(dict.fromkeys(head for s in group.studies for head in _study_row(s)))


def _study_row(s: StudySummary) -> dict[str, Any]:
    misfit, of = s.worst_misfit
    row = {
        "study": s.id,
        "status": s.status,
        "message": s.message,
        "checks": len(s.items),
        "checks_failed": len(s.failed_items),
        "failed": "; ".join(i.name for i in s.failed_items),
        "worst_chi2_n": misfit,
        "worst_chi2_n_of": of,
        "informed": ", ".join(x.name for x in s.scalars if x.informed),
        "seconds": s.seconds,
        "arms": s.arms or None,
        "comparison_message": s.comparison_message,
        "nanopinn": s.versions.get("nanopinn"),
        "torch": s.versions.get("torch"),
    }
    return row | {
        (f"participant_{k}" if k in row else k): v for k, v in s.participant_columns.items()
    }


def _parameter_rows(group: CohortSummary) -> list[Mapping[str, Any]]:
    return [
        dict(
            zip(
                _PARAMETER_HEADS,
                (
                    s.id,
                    x.name,
                    x.label,
                    x.unit,
                    x.scale,
                    x.median,
                    x.sd,
                    *x.interval(),
                    x.prior_median,
                    x.prior_sd,
                    x.contraction,
                    "yes" if x.informed else "no",
                    s.status,
                ),
                strict=True,
            )
        )
        for s in group.studies
        for x in s.scalars
    ]


def _summary_row(p: CohortParameter) -> Mapping[str, Any]:
    cells = (
        p.name,
        p.label,
        p.unit,
        p.scale,
        p.passed,
        len(p.estimates),
        p.median,
        *p.quartiles,
        p.mean,
        p.low,
        p.high,
        p.between_sd,
        p.prior_median,
        p.prior_sd,
        "; ".join(m.study for m in p.outliers),
        "yes" if p.outliers_tested else "no",
    )
    return dict(zip(_SUMMARY_HEADS, cells, strict=True))


def render_group(group: CohortSummary) -> str:
    """The page as text; figures travel inside it, and every value from outside is escaped."""
    environment = Environment(loader=PackageLoader("nanopinn", "report"), autoescape=True)
    return environment.get_template("group.html.j2").render(
        g=group,
        remedies=REMEDIES,
        without_result=[
            s for s in group.studies if s.status in ("refused", "internal error", "unfinished")
        ],
        arms_not_passed=[s for s in group.studies if s.arms not in ("", "passed")],
        failed=[s for s in group.studies if s.status == "check failed"],
        has_repeated_subjects=len({s.subject for s in group.studies}) < len(group.studies),
        arms=_arms(group),
        participant_columns=list(
            dict.fromkeys(k for s in group.studies for k in s.participant_columns)
        ),
        forest_plots={
            p.name: as_data_uri(forest_panel(p))
            for p in group.parameters
            if p.estimates or p.failed
        },
        between_sd_text=lambda p: (
            f"x{np.exp(p.between_sd):.2f}" if p.scale == "log" else f"{p.between_sd:.3g}"
        ),
    )


def _arms(group: CohortSummary) -> list[dict[str, Any]]:
    """Each outcome of each arm over the studies: how many have it, the middle and the range of their medians."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for s in group.studies:
        for o in s.outcomes if s.status == "passed" else ():
            if np.isfinite(o.median):
                found.setdefault((o.outcome, o.unit, o.arm), []).append(o.median)
    return [
        {
            "outcome": outcome,
            "unit": unit,
            "arm": arm,
            "n": len(v),
            "median": float(np.median(v)),
            "low": min(v),
            "high": max(v),
        }
        for (outcome, unit, arm), v in sorted(found.items(), key=lambda item: item[0][0])
    ]
