"""Figures of a group page, drawn without a screen."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from nanopinn.inference.result import ScalarEstimate
from nanopinn.report.grouped import CohortParameter

#: Studies beyond which names are left out.
_MAX_LABELLED_STUDIES = 60


def forest_panel(p: CohortParameter) -> Figure:
    """Every study that the images inform, with its 95 % interval; the prior above, the typical value below."""
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
