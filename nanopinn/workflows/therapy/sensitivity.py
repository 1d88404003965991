"""Which inputs an outcome answers to: Morris' elementary effects of all of them, Sobol's indices of those that lead.

Every input is moved through its own distribution: an effect is the change of the outcome when one input goes through two thirds of its
95 % interval while the others stand anywhere in theirs. Source: Morris 1991 with Campolongo's mean of absolute effects (2007);
Saltelli 2010 and Jansen 1999 for the indices; both by SALib.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from nanopinn.errors import InputError

Array = NDArray[np.float64]
#: Value of every outcome at many points, by name, from values of every input there, by name; NaN where an outcome is not there.
OutcomeEvaluator = Callable[[Mapping[str, Array]], Mapping[str, Array]]

#: Morris moves inputs between these quantiles, Sobol's points lie between the others.
MORRIS_QUANTILES, SOBOL_QUANTILES = (0.025, 0.975), (1e-3, 1 - 1e-3)
#: Of the range within which Morris moves.
MORRIS_LEVELS = 4
#: An index of fewer trajectories or points says nothing.
MIN_BLOCKS = 4


@dataclass(frozen=True)
class UncertainInput:
    """An uncertain input: its values at standard normal deviates, increasing."""

    name: str
    at: Callable[[Array], Array]


@dataclass(frozen=True)
class Sensitivity:
    """How one outcome answers to its inputs.

    Attributes:
        outcome: its name. inputs: by falling effect.
        effect: mean absolute elementary effect of each, in the outcome's unit.
        spread: standard deviation of the elementary effects: interaction with other inputs, or curvature.
        leading: the inputs whose indices were found, as in ``inputs``.
        first, total: share of the outcome's variance that an input explains alone, and with all others; the others fixed at their medians.
        total_error: half a 95 % interval.
        kept: share of the points at which the outcome was there.
    """

    outcome: str
    inputs: tuple[str, ...]
    effect: Array = field(repr=False)
    spread: Array = field(repr=False)
    leading: tuple[str, ...]
    first: Array = field(repr=False)
    total: Array = field(repr=False)
    total_error: Array = field(repr=False)
    valid_share: float

    def __str__(self) -> str:
        lines = [f"{self.outcome} ({self.valid_share:.0%} of the points)"]
        for name, effect, spread in zip(self.inputs, self.effect, self.spread, strict=True):
            at = self.leading.index(name) if name in self.leading else None
            share = (
                ""
                if at is None
                else f"   alone {self.first[at]:5.2f}, in all {self.total[at]:5.2f} +- {self.total_error[at]:.2f}"
            )
            lines.append(f"  {name:16s}{effect:10.3g} ({spread:.2g}){share}")
        return "\n".join(lines)


def rank_inputs(
    inputs: Sequence[UncertainInput],
    evaluate: OutcomeEvaluator,
    *,
    trajectories: int = 16,
    leading: int = 6,
    points: int = 64,
    seed: int = 0,
) -> dict[str, Sensitivity]:
    """Rank inputs by their effect on every outcome, and find the indices of those that lead in any.

    Costs ``trajectories (inputs + 1) + points (leading + 2)`` evaluations, in two calls.

    Args:
        points: a power of 2. leading: inputs whose indices are found; 0 for none.

    Raises:
        InputError: SALib is not installed, or an outcome is there at hardly any point.
    """
    _require_salib()
    screened = _morris(inputs, evaluate, trajectories, seed)
    if not leading:
        return screened
    largest_effect = {
        i.name: max(
            s.effect[s.inputs.index(i.name)] / max(s.effect.max(), 1e-300)
            for s in screened.values()
        )
        for i in inputs
    }
    chosen = [
        i
        for i in inputs
        if i.name in sorted(largest_effect, key=lambda n: -largest_effect[n])[:leading]
    ]
    return _sobol(inputs, chosen, evaluate, points, seed, screened)


def _morris(
    inputs: Sequence[UncertainInput], evaluate: OutcomeEvaluator, trajectories: int, seed: int
) -> dict[str, Sensitivity]:
    from SALib.analyze import morris as analysis
    from SALib.sample import morris as sampling

    problem = _problem(inputs, MORRIS_QUANTILES)
    X = sampling.sample(problem, trajectories, num_levels=MORRIS_LEVELS, seed=seed)
    found = {}
    for outcome, Y in evaluate(_values(inputs, X)).items():
        rows, valid_share = _complete_blocks(Y, len(inputs) + 1, outcome)
        S = analysis.analyze(problem, X[rows], Y[rows], num_levels=MORRIS_LEVELS, seed=seed)
        order = np.argsort(-np.asarray(S["mu_star"]), kind="stable")
        none = np.zeros(0)
        names = tuple(inputs[i].name for i in order)
        found[outcome] = Sensitivity(
            outcome,
            names,
            np.asarray(S["mu_star"])[order],
            np.asarray(S["sigma"])[order],
            (),
            none,
            none,
            none,
            valid_share,
        )
    return found


def _sobol(
    inputs: Sequence[UncertainInput],
    chosen: Sequence[UncertainInput],
    evaluate: OutcomeEvaluator,
    points: int,
    seed: int,
    screened: Mapping[str, Sensitivity],
) -> dict[str, Sensitivity]:
    from SALib.analyze import sobol as analysis
    from SALib.sample import sobol as sampling

    problem = _problem(chosen, SOBOL_QUANTILES)
    X = sampling.sample(problem, points, calc_second_order=False, seed=seed)
    rest = {i.name: i.at(np.zeros(len(X))) for i in inputs if i not in chosen}
    found = {}
    for outcome, Y in evaluate({**rest, **_values(chosen, X)}).items():
        rows, valid_share = _complete_blocks(Y, len(chosen) + 2, outcome)
        s = screened[outcome]
        if np.ptp(Y[rows]) == 0:
            first = total = error = np.zeros(len(chosen))
        else:
            S = analysis.analyze(problem, Y[rows], calc_second_order=False, seed=seed)
            first, total, error = (np.asarray(S[key]) for key in ("S1", "ST", "ST_conf"))
        names = tuple(i.name for i in chosen)
        found[outcome] = Sensitivity(
            outcome,
            s.inputs,
            s.effect,
            s.spread,
            names,
            first,
            total,
            error,
            min(valid_share, s.valid_share),
        )
    return found


def _problem(inputs: Sequence[UncertainInput], within: tuple[float, float]) -> dict[str, Any]:
    return {
        "num_vars": len(inputs),
        "names": [i.name for i in inputs],
        "bounds": [list(within)] * len(inputs),
    }


def _values(inputs: Sequence[UncertainInput], X: Array) -> dict[str, Array]:
    """Values of the inputs at quantiles ``(point, input)``."""
    return {i.name: i.at(ndtri(X[:, k])) for k, i in enumerate(inputs)}


def _complete_blocks(Y: Array, block: int, outcome: str) -> tuple[NDArray[np.bool_], float]:
    """Rows of the blocks (trajectories, or points with their neighbours) in which the outcome is there throughout, and their share."""
    complete: NDArray[np.bool_] = np.all(np.isfinite(Y).reshape(-1, block), axis=1)
    if complete.sum() < min(MIN_BLOCKS, len(complete)):
        raise InputError(
            "an outcome is there at hardly any point",
            field=outcome,
            found=f"{complete.sum()} of {len(complete)} groups of points",
            expected=f"at least {MIN_BLOCKS}",
            remedy="Choose a tissue that has what the outcome speaks of, or more points.",
        )
    return np.repeat(complete, block), float(complete.mean())


def _require_salib() -> None:
    try:
        import SALib  # noqa: F401
    except ImportError as error:
        raise InputError(
            "a sensitivity ranking needs the package SALib",
            field="sensitivity",
            found="not installed",
            remedy="pip install nanopinn[sensitivity]",
        ) from error
