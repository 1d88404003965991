"""Figures of a group page, drawn without a screen.

The tables and the page of a cohort: what needs a look first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from nanopinn.io.volumes import write_bytes
from nanopinn.report.figures import as_data_uri
from nanopinn.report.result_folder import format_tsv
from nanopinn.results.cohort_result import REMEDIES, CohortParameter, CohortSummary, StudySummary
from nanopinn.results.fit_result import ScalarEstimate

#: Studies beyond which names are left out.
_MAX_LABELLED_STUDIES = 60


def forest_panel(p: CohortParameter) -> Figure:
    """Every study that the images inform, with its 95 % interval; the prior above, the typical
    value below.
    """
    rows = [
        *((m.study, m.scalar, m in p.outliers, True) for m in p.estimates),
        *((study, x, False, False) for study, x in p.failed),
    ]
    named = len(rows) <= _MAX_LABELLED_STUDIES
    figure = Figure(
        figsize=(7.2, 1.6 + (0.24 if named else 0.06) * len(rows)), dpi=100, layout="constrained"
    )
    axes = figure.add_subplot()
    prior = ScalarEstimate(
        p.name,
        p.label,
        p.unit,
        "log" if p.scale == "log" else "linear",
        p.prior_median,
        p.prior_sd,
        p.prior_median,
        p.prior_sd,
    )
    low, high = prior.interval()
    axes.axvspan(low, high, color="0.93", lw=0)
    axes.plot([low, high], [-1, -1], color="0.6", lw=3)
    for colour, filled, wanted in (
        ("tab:red", True, (False, True)),
        ("tab:orange", True, (True, True)),
        ("0.5", False, (False, False)),
    ):
        shown = [(i, x) for i, (_, x, *kind) in enumerate(rows) if tuple(kind) == wanted]
        at, ends = [i for i, _ in shown], [x.interval() for _, x in shown]
        axes.hlines(
            at,
            [e[0] for e in ends],
            [e[1] for e in ends],
            color=colour,
            lw=1.2,
            ls="-" if filled else ":",
        )
        axes.plot(
            [x.median for _, x in shown],
            at,
            "o",
            ms=4 if named else 2,
            color=colour,
            mfc=colour if filled else "none",
        )
    last = len(rows)
    if p.is_averaged:
        axes.fill([p.low, p.mean, p.high, p.mean], [last, last - 0.3, last, last + 0.3], color="k")
        axes.axvline(p.mean, color="k", lw=0.6, ls="--")
    ticks = {
        -1: "prior",
        **({i: r[0] for i, r in enumerate(rows)} if named else {}),
        **({last: "typical"} if p.is_averaged else {}),
    }
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=8)
    axes.set_ylim(last + 0.7, -1.7)
    if p.scale == "log":
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(p.label if p.unit == "1" else f"{p.label}, {p.unit}", fontsize=9)
    axes.tick_params(labelsize=8)
    return figure


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
    """Write ``group_studies.tsv``, ``group_parameters.tsv``, ``group_summary.tsv``,
    ``group_outcomes.tsv`` of arms, and ``group.html``.

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
    """Each outcome of each arm over the studies: how many have it, the middle and the range of
    their medians.
    """
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
