"""The summary of a fit as text: table of estimates, profiles, and what the data determine."""

from __future__ import annotations

from nanopinn.inference.uncertainty.profile import (
    BETTER_POINT_MESSAGE,
    SIGNIFICANT_DECREASE,
    strongest_correlation,
)
from nanopinn.results import FitResult, Profile, StrongestCorrelation


def format_summary(fit: FitResult) -> str:
    """The check, priors beside posteriors, the profiles, and which unknowns the data determine.

    Args:
        fit: of one study.

    Returns:
        Lines of text.
    """
    lines = [
        fit.check.headline,
        (
            f"{'parameter':36s} {'unit':8s} {'prior (95 %)':>26s} {'posterior (95 %)':>34s}"
            f" {'contraction':>12s}  correlated with"
        ),
    ]
    names = [s.name for s in fit.scalars]
    for s in fit.scalars:
        (prior_low, prior_high), (low, high) = s.prior_interval(), s.interval()
        prior = f"{prior_low:.3g} .. {prior_high:.3g}"
        posterior = f"{s.median:.3g} ({low:.3g} .. {high:.3g})"
        partner = format_correlation(strongest_correlation(names, fit.covariance, s.name))
        lines.append(
            f"{s.label:36s} {s.unit:8s} {prior:>26s} {posterior:>34s} {s.contraction:12.2f}"
            f"  {partner}"
        )
    return "\n".join(
        [
            *lines,
            *(describe_profile(p) for p in fit.profiles.values()),
            describe_information(fit),
            *describe_prior_shifts(fit),
        ]
    )


def describe_prior_shifts(fit: FitResult) -> list[str]:
    """A sentence for each estimate that lies beyond two standard deviations of its prior."""
    flagged = sorted((s for s in fit.prior_shifts if s.flagged), key=lambda s: -abs(s.shift))
    return [
        f"Prior against data: {s.label} lies {abs(s.shift):.1f} prior sd"
        f" {'above' if s.shift > 0 else 'below'} its prior. This may come from {s.meaning}."
        for s in flagged
    ]


def describe_information(fit: FitResult) -> str:
    """Which unknowns the images inform and which are prior-dominated, in one or two sentences."""
    informed = [s.label for s in fit.scalars if s.informed]
    dominated = [s.label for s in fit.scalars if not s.informed]
    first = (
        f"Informed by the images: {', '.join(informed)}."
        if informed
        else "The images inform none of the unknowns."
    )
    if not dominated:
        return first
    return f"{first} Prior-dominated (not identified by the data): {', '.join(dominated)}."


def format_correlation(correlation: StrongestCorrelation | None) -> str:
    """Name and correlation of the partner, or "none"."""
    return "none" if correlation is None else f"{correlation.partner} ({correlation.strength:+.2f})"


def describe_profile(profile: Profile) -> str:
    """Interval of a profile likelihood, and on which sides the data alone bound the unknown."""
    sides = {
        (True, True): "bounded by the data on both sides",
        (False, False): "flat: not bounded by the data alone on either side",
        (True, False): "bounded by the data from below only",
        (False, True): "bounded by the data from above only",
    }
    (low, high), unit = profile.interval, "" if profile.unit == "1" else f" {profile.unit}"
    parts = [
        (
            f"{profile.label}: {low:.3g} to {high:.3g}{unit} by its profile likelihood,"
            f" {profile.laplace[0]:.3g} to {profile.laplace[1]:.3g} by the Laplace approximation"
        ),
        sides[profile.bounded],
    ]
    partner = profile.strongest_correlation
    if partner is not None:
        parts.append(f"correlated with {partner.partner} ({partner.strength:+.2f} sd per sd)")
    if profile.objective.min() < profile.objective[profile.estimate] - SIGNIFICANT_DECREASE:
        parts.append(BETTER_POINT_MESSAGE)
    return "; ".join([*parts, *([profile.stopped] if profile.stopped else [])])
