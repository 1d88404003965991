"""Write the tables and the page of a cohort, and summarise it as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure

from nanopinn.io.volumes import write_bytes
from nanopinn.report.figures import as_data_uri, new_figure, set_log_x_axis
from nanopinn.report.result_files import format_tsv, render_page
from nanopinn.results import CohortParameter, CohortSummary, ScalarEstimate, StudySummary

#: What a user can do about each status.
REMEDIES: Mapping[str, str] = {
    "refused": (
        "Correct the input that the message names and run the cohort again. Only this study is"
        " repeated."
    ),
    "internal error": (
        "Read its log. If memory was short, request more. Otherwise please report the error."
    ),
    "unfinished": "Run the cohort again. The study continues from its checkpoint.",
    "check failed": (
        "Read the first lines of its report. The preset 'accurate' refines the grid, which is the"
        " most frequent cause."
    ),
}
#: Number of studies beyond which a forest plot has no names.
_MAX_LABELLED_STUDIES = 60
_PARAMETER_COLUMNS = (
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
_SUMMARY_COLUMNS = (
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
_OUTCOME_COLUMNS = ("study", "arm", "outcome", "unit", "median", "low_90", "high_90")


def cohort_headline(group: CohortSummary) -> str:
    """Describe in one line how many studies passed and how the others ended."""

    def count(status: str) -> int:
        return sum(s.status == status for s in group.studies)

    parts = [f"{count('passed')} of {len(group.studies)} studies passed"]
    parts += [f"{n} {status}" for status in REMEDIES if (n := count(status))]
    arms = sum(s.arms not in ("", "passed") for s in group.studies)
    if arms:
        parts.append(f"the comparison of arms did not pass in {arms}")
    return "; ".join(parts)


def describe_parameter(p: CohortParameter) -> str:
    """Describe in how many studies the images inform a parameter, and whether it is averaged."""
    if not p.passed:
        return "no study passed its check"
    informed = f"informed by the images in {len(p.estimates)} of {p.passed} studies"
    if p.is_averaged:
        return informed
    if p.estimates:
        return f"{informed}; not averaged, because it is prior-dominated in the others"
    return f"{informed}; prior-dominated"


def format_cohort(group: CohortSummary) -> str:
    """Summarise a cohort: studies that need review, outliers and parameters, a line each."""
    lines = [cohort_headline(group)]
    lines += [f"{s.id}: {s.status}: {s.message}" for s in group.studies if s.status != "passed"]
    lines += [
        f"{s.id}: arms {s.arms}: {s.comparison_message}"
        for s in group.studies
        if s.arms not in ("", "passed")
    ]
    lines += [
        f"{e.study}: outlier in {p.label} (z {e.z:+.1f})"
        for p in group.parameters
        for e in p.outliers
    ]
    return "\n".join([*lines, *(f"{p.label}: {describe_parameter(p)}" for p in group.parameters)])


def write_group(out: str | Path, group: CohortSummary) -> Path:
    """Write the tables and the page of a cohort.

    The tables are ``group_studies.tsv``, ``group_parameters.tsv``, ``group_summary.tsv`` and, if
    arms were compared, ``group_outcomes.tsv``. The page ``group.html`` is written last.

    Args:
        out: Dataset of derivatives.
        group: The cohort.

    Returns:
        The page.

    Raises:
        OutputError: The folder cannot be written.
    """
    out = Path(out)
    studies = [_study_row(s) for s in group.studies]
    columns = tuple(dict.fromkeys(column for row in studies for column in row))
    write_bytes(out / "group_studies.tsv", format_tsv(studies, columns))
    parameters = [_parameter_cells(s, x) for s in group.studies for x in s.scalars]
    _write_rows(out / "group_parameters.tsv", _PARAMETER_COLUMNS, parameters)
    _write_rows(
        out / "group_summary.tsv", _SUMMARY_COLUMNS, [_summary_cells(p) for p in group.parameters]
    )
    outcomes = [
        (s.id, o.arm, o.outcome, o.unit, o.median, o.low, o.high)
        for s in group.studies
        for o in s.outcomes
    ]
    if outcomes:
        _write_rows(out / "group_outcomes.tsv", _OUTCOME_COLUMNS, outcomes)
    else:
        (out / "group_outcomes.tsv").unlink(missing_ok=True)
    write_bytes(out / "group.html", render_group(group).encode())
    return out / "group.html"


def _study_row(s: StudySummary) -> dict[str, Any]:
    """Row of a study; a column of participants with the name of another column gets a prefix."""
    misfit, data = s.worst_misfit
    row = {
        "study": s.id,
        "status": s.status,
        "message": s.message,
        "checks": len(s.items),
        "checks_failed": len(s.failed_items),
        "failed": "; ".join(i.name for i in s.failed_items),
        "worst_chi2_n": misfit,
        "worst_chi2_n_of": data,
        "informed": ", ".join(x.name for x in s.scalars if x.informed),
        "seconds": s.seconds,
        "arms": s.arms or None,
        "arms_message": s.comparison_message,
        "nanopinn": s.versions.get("nanopinn"),
        "torch": s.versions.get("torch"),
    }
    return row | {
        (f"participant_{k}" if k in row else k): v for k, v in s.participant_columns.items()
    }


def _parameter_cells(s: StudySummary, x: ScalarEstimate) -> tuple[Any, ...]:
    return (
        *(s.id, x.name, x.label, x.unit, x.scale, x.median, x.sd, *x.interval()),
        *(x.prior_median, x.prior_sd, x.contraction, "yes" if x.informed else "no", s.status),
    )


def _summary_cells(p: CohortParameter) -> tuple[Any, ...]:
    return (
        *(p.name, p.label, p.unit, p.scale, p.passed, len(p.estimates), p.median, *p.quartiles),
        *(p.mean, p.low, p.high, p.between_sd, p.prior_median, p.prior_sd),
        "; ".join(e.study for e in p.outliers),
        "yes" if p.outliers_tested else "no",
    )


def _write_rows(path: Path, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    table = [dict(zip(columns, cells, strict=True)) for cells in rows]
    write_bytes(path, format_tsv(table, columns))


def render_group(group: CohortSummary) -> str:
    """Render the page of a cohort as HTML."""
    columns = dict.fromkeys(k for s in group.studies for k in s.participant_columns)
    return render_page(
        "group.html.j2",
        group=group,
        headline=cohort_headline(group),
        describe_parameter=describe_parameter,
        remedies=REMEDIES,
        without_result=[
            s for s in group.studies if s.status in ("refused", "internal error", "unfinished")
        ],
        arms_not_passed=[s for s in group.studies if s.arms not in ("", "passed")],
        failed=[s for s in group.studies if s.status == "check failed"],
        has_repeated_subjects=len({s.subject for s in group.studies}) < len(group.studies),
        arms=_arm_rows(group),
        participant_columns=list(columns),
        forest_plots={
            p.name: as_data_uri(forest_panel(p))
            for p in group.parameters
            if p.estimates or p.failed
        },
        format_between_sd=lambda p: (
            f"x{np.exp(p.between_sd):.2f}" if p.scale == "log" else f"{p.between_sd:.3g}"
        ),
    )


def _arm_rows(group: CohortSummary) -> list[dict[str, Any]]:
    """Median and range of the study medians, for each outcome of each arm."""
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


def forest_panel(p: CohortParameter) -> Figure:
    """Draw a forest plot: prior, the informed studies with 95 % intervals, and the pooled mean."""
    rows = [
        *((e.study, e.scalar, "outlier" if e in p.outliers else "counted") for e in p.estimates),
        *((study, x, "check failed") for study, x in p.failed),
    ]
    named, last = len(rows) <= _MAX_LABELLED_STUDIES, len(rows)
    figure = new_figure(7.2, 1.6 + (0.24 if named else 0.06) * last)
    axes = figure.add_subplot()
    low, high = _prior_interval(p)
    axes.axvspan(low, high, color="0.93", lw=0)
    axes.plot([low, high], [-1, -1], color="0.6", lw=3)
    for kind, colour in (
        ("counted", "tab:red"),
        ("outlier", "tab:orange"),
        ("check failed", "0.5"),
    ):
        shown = [(i, x) for i, (_, x, k) in enumerate(rows) if k == kind]
        y, ends = [i for i, _ in shown], [x.interval() for _, x in shown]
        style = ":" if kind == "check failed" else "-"
        axes.hlines(y, [e[0] for e in ends], [e[1] for e in ends], color=colour, lw=1.2, ls=style)
        face = "none" if kind == "check failed" else colour
        medians = [x.median for _, x in shown]
        axes.plot(medians, y, "o", ms=4 if named else 2, color=colour, mfc=face)
    if p.is_averaged:
        axes.fill([p.low, p.mean, p.high, p.mean], [last, last - 0.3, last, last + 0.3], color="k")
        axes.axvline(p.mean, color="k", lw=0.6, ls="--")
    ticks = {
        -1: "prior",
        **({i: r[0] for i, r in enumerate(rows)} if named else {}),
        **({last: "pooled mean"} if p.is_averaged else {}),
    }
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=8)
    axes.set_ylim(last + 0.7, -1.7)
    if p.scale == "log":
        set_log_x_axis(axes, (1.0, 3.0))
    axes.set_xlabel(p.label if p.unit == "1" else f"{p.label}, {p.unit}", fontsize=9)
    axes.tick_params(labelsize=8)
    return figure


def _prior_interval(p: CohortParameter) -> tuple[float, float]:
    """Central 95 % interval of the prior, in the unit of the parameter."""
    scale: Literal["log", "linear"] = "log" if p.scale == "log" else "linear"
    prior = (p.prior_median, p.prior_sd)
    return ScalarEstimate(p.name, p.label, p.unit, scale, *prior, *prior).interval()
