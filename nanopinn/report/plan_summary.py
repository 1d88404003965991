"""A plan, and the value of post-dose images, as text and as tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanopinn.report.result_files import write_table
from nanopinn.results import CandidateGain, ExpectedEstimate, MinimalImaging, Plan

#: Expected information below which an image is not recommended, nats: every sd would shrink by 1 %
#: in all.
MIN_USEFUL_NATS = 0.1


def format_plan(plan: Plan) -> str:
    """The protocol, the expected estimates, the ranking of the candidates, and a conclusion."""
    return "\n".join(
        [
            *plan.protocol,
            "",
            *_format_expected(plan),
            "",
            *_format_candidates(plan),
            "",
            describe_plan(plan),
        ]
    )


def _format_expected(plan: Plan) -> list[str]:
    count = len(plan.sd)
    draws = (
        f"mean and range of {count} draws, the first at {plan.centre}"
        if count > 1
        else f"at {plan.centre}"
    )
    lines = [
        f"Expected with the protocol as it is ({draws}; sd of ln, of the value for pK)",
        f"{'parameter':36s} {'prior sd':>9s} {'expected sd':>24s} {'contraction':>12s}  informed",
    ]
    for e in plan.expected:
        found = f"{e.sd:.3f}" + (f" ({e.low:.3f} .. {e.high:.3f})" if count > 1 else "")
        lines.append(
            f"{e.label:36s} {e.prior_sd:9.2f} {found:>24s} {e.contraction:12.2f}"
            f"  {'yes' if e.informed else 'no'}"
        )
    return lines


def _format_candidates(plan: Plan) -> list[str]:
    """The ranking, with columns for the unknowns that a candidate affects."""
    affected = [
        e.name
        for i, e in enumerate(plan.expected)
        if min(a.unknowns[i].low for a in plan.additions) < 0.99 * e.prior_sd
    ]
    now = {e.name: e.contraction for e in plan.expected}
    lines = [
        (
            "One more image, best first: expected information (half of the decrease of ln det of"
            " the posterior covariance, nats)"
        ),
        "and the contraction of every unknown that a candidate affects",
        f"{'image':24s} {'nats':>20s} " + "".join(f"{n:>10s}" for n in affected),
        f"{'(as it is)':24s} {'':20s} " + "".join(f"{now[n]:10.2f}" for n in affected),
    ]
    for a in plan.additions:
        contraction = {e.name: e.contraction for e in a.unknowns}
        gain = f"{a.gain:.2f}" + (f" ({a.low:.2f} .. {a.high:.2f})" if len(plan.sd) > 1 else "")
        lines.append(
            f"{a.name:24s} {gain:>20s} " + "".join(f"{contraction[n]:10.2f}" for n in affected)
        )
    return lines


def describe_plan(plan: Plan) -> str:
    """Which unknowns the protocol would inform, which not, and which image to add."""
    informed = [e.label for e in plan.expected if e.informed]
    dominated = [e.label for e in plan.expected if not e.informed]
    parts = [
        f"The protocol would inform: {', '.join(informed)}."
        if informed
        else "The protocol would inform none of the unknowns."
    ]
    if dominated:
        parts.append(f"Prior-dominated (not identified by the data): {', '.join(dominated)}.")
    return " ".join([*parts, *_advice(plan)])


def _advice(plan: Plan) -> list[str]:
    best = plan.additions[0]
    if best.gain < MIN_USEFUL_NATS:
        return [
            (
                f"The expected information of every candidate is below {MIN_USEFUL_NATS:g} nat: the"
                f" best, {best.name}, adds {best.gain:.2f} nats."
            )
        ]
    parts = [
        (
            f"The most informative additional image is {best.name} (+{best.gain:.2f} nats). It"
            f" reduces the sd of {_largest_reductions(plan.expected, best.unknowns)}."
        )
    ]
    newly = newly_informed(best, plan.expected)
    parts += [f"It would newly inform: {', '.join(newly)}."] if newly else []
    second = max(plan.additions, key=lambda a: a.gain_after_best)
    if len(plan.additions) > 1 and second.gain_after_best >= MIN_USEFUL_NATS:
        parts.append(
            f"After that image, {second.name} is the most informative"
            f" (+{second.gain_after_best:.2f} nats)."
        )
    return parts


def newly_informed(
    candidate: CandidateGain, before: tuple[ExpectedEstimate, ...]
) -> tuple[str, ...]:
    """Labels of the unknowns that a candidate would inform and the protocol alone would not."""
    return tuple(
        a.label
        for a, b in zip(candidate.unknowns, before, strict=True)
        if a.informed and not b.informed
    )


def _largest_reductions(
    before: tuple[ExpectedEstimate, ...], after: tuple[ExpectedEstimate, ...]
) -> str:
    """Up to three unknowns whose sd decreases most, with the decrease."""
    decrease = sorted(
        (
            ((b.sd - a.sd) / b.sd, a.label)
            for a, b in zip(after, before, strict=True)
            if a.sd < 0.95 * b.sd
        ),
        reverse=True,
    )
    named = [f"{label} by {share:.0%}" for share, label in decrease[:3]]
    return ", ".join(named) if named else "every unknown by less than 5%"


def plan_rows(plan: Plan) -> list[Mapping[str, str | float | bool]]:
    """One row per unknown, for the protocol and for every addition."""
    every = [
        ("protocol", 0.0, plan.expected),
        *((a.name, a.gain, a.unknowns) for a in plan.additions),
    ]
    return [
        {
            "with": name,
            "gain_nats": gain,
            "name": e.name,
            "label": e.label,
            "unit": e.unit,
            "scale": e.scale,
            "prior_sd": e.prior_sd,
            "expected_sd": e.sd,
            "lowest_sd": e.low,
            "highest_sd": e.high,
            "contraction": e.contraction,
            "informed": e.informed,
        }
        for name, gain, unknowns in every
        for e in unknowns
    ]


def write_plan(
    out: Path, plan: Plan, settings: Mapping[str, Any], *, overwrite: bool = False
) -> Path:
    """Write the rows of a plan as TSV; as JSON also the protocol, the settings and the conclusion.

    Args:
        out: The file.
        plan: The plan.
        settings: Settings of the plan.
        overwrite: Whether an existing file may be replaced.

    Raises:
        InputError: See :func:`nanopinn.report.result_files.reserve_table_file`.
        OutputError: See :func:`nanopinn.report.result_files.reserve_table_file`.
    """
    metadata = {
        "protocol": list(plan.protocol),
        "settings": dict(settings),
        "in_words": describe_plan(plan),
        "seconds": plan.seconds,
    }
    return write_table(out, plan_rows(plan), metadata, name="expected", overwrite=overwrite)


def format_minimal_imaging(found: MinimalImaging) -> str:
    """A row for each stage of imaging, and a conclusion."""
    head = f"{found.outcome}, {found.unit}" if found.unit != "1" else found.outcome
    lines = [f"{head:40s}{'images':>8s}{'median':>12s}{'95 %':>26s}{'sd of ln':>10s}  informed"]
    for stage in (*found.stages, found.remaining):
        interval = f"{stage.low:.3g} .. {stage.high:.3g}"
        informed = ", ".join(stage.informed) or "-"
        lines.append(
            f"{stage.name:40s}{stage.images:8d}{stage.median:12.4g}{interval:>26s}"
            f"{stage.sd:10.3f}  {informed}"
        )
    return "\n".join([*lines, describe_minimal_imaging(found)])


def tabulate_minimal_imaging(found: MinimalImaging) -> list[dict[str, object]]:
    """A row for each stage of imaging, as a file holds it."""
    return [
        {
            "known": stage.name,
            "images": stage.images,
            "median": stage.median,
            "low_95": stage.low,
            "high_95": stage.high,
            "sd_of_ln": stage.sd,
            "informed": ", ".join(stage.informed),
        }
        for stage in (*found.stages, found.remaining)
    ]


def describe_minimal_imaging(found: MinimalImaging) -> str:
    """By how much the images reduce the uncertainty of the outcome, as a sentence."""
    first, last = found.stages[0], found.stages[-1]
    steps = "; ".join(
        f"{after.name}: {1 - after.sd / before.sd:.0%} less than {before.name}"
        for before, after in zip(found.stages[:-1], found.stages[1:], strict=True)
    )
    return (
        f"The sd of ln({found.outcome}) falls from {first.sd:.2f} ({first.name}) to"
        f" {last.sd:.2f} ({last.name}): {steps}. Of this, {found.remaining.sd:.2f} would remain"
        " even if all unknowns of the tumour were known."
    )
