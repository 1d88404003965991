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
Evaluate = Callable[[Mapping[str, Array]], Mapping[str, Array]]

#: Morris moves inputs between these quantiles, Sobol's points lie between the others.
MORRIS_WITHIN, SOBOL_WITHIN = (0.025, 0.975), (1e-3, 1 - 1e-3)
#: Of the range within which Morris moves.
LEVELS = 4
#: An index of fewer trajectories or points says nothing.
FEWEST = 4


@dataclass(frozen=True)
class Input:
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
    kept: float

    def __str__(self) -> str:
        lines = [f"{self.outcome} ({self.kept:.0%} of the points)"]
        for name, effect, spread in zip(self.inputs, self.effect, self.spread, strict=True):
            at = self.leading.index(name) if name in self.leading else None
            share = (
                ""
                if at is None
                else f"   alone {self.first[at]:5.2f}, in all {self.total[at]:5.2f} +- {self.total_error[at]:.2f}"
            )
            lines.append(f"  {name:16s}{effect:10.3g} ({spread:.2g}){share}")
        return "\n".join(lines)


def rank(
    inputs: Sequence[Input],
    evaluate: Evaluate,
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
    _salib()
    screened = _morris(inputs, evaluate, trajectories, seed)
    if not leading:
        return screened
    most = {
        i.name: max(
            s.effect[s.inputs.index(i.name)] / max(s.effect.max(), 1e-300)
            for s in screened.values()
        )
        for i in inputs
    }
    chosen = [i for i in inputs if i.name in sorted(most, key=lambda n: -most[n])[:leading]]
    return _sobol(inputs, chosen, evaluate, points, seed, screened)


def _morris(
    inputs: Sequence[Input], evaluate: Evaluate, trajectories: int, seed: int
) -> dict[str, Sensitivity]:
    from SALib.analyze import morris as analysis
    from SALib.sample import morris as sampling

    problem = _problem(inputs, MORRIS_WITHIN)
    X = sampling.sample(problem, trajectories, num_levels=LEVELS, seed=seed)
    found = {}
    for outcome, Y in evaluate(_values(inputs, X)).items():
        rows, kept = _whole(Y, len(inputs) + 1, outcome)
        S = analysis.analyze(problem, X[rows], Y[rows], num_levels=LEVELS, seed=seed)
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
            kept,
        )
    return found


def _sobol(
    inputs: Sequence[Input],
    chosen: Sequence[Input],
    evaluate: Evaluate,
    points: int,
    seed: int,
    screened: Mapping[str, Sensitivity],
) -> dict[str, Sensitivity]:
    from SALib.analyze import sobol as analysis
    from SALib.sample import sobol as sampling

    problem = _problem(chosen, SOBOL_WITHIN)
    X = sampling.sample(problem, points, calc_second_order=False, seed=seed)
    rest = {i.name: i.at(np.zeros(len(X))) for i in inputs if i not in chosen}
    found = {}
    for outcome, Y in evaluate({**rest, **_values(chosen, X)}).items():
        rows, kept = _whole(Y, len(chosen) + 2, outcome)
        s = screened[outcome]
        if np.ptp(Y[rows]) == 0:
            first = total = error = np.zeros(len(chosen))
        else:
            S = analysis.analyze(problem, Y[rows], calc_second_order=False, seed=seed)
            first, total, error = (np.asarray(S[key]) for key in ("S1", "ST", "ST_conf"))
        names = tuple(i.name for i in chosen)
        found[outcome] = Sensitivity(
            outcome, s.inputs, s.effect, s.spread, names, first, total, error, min(kept, s.kept)
        )
    return found


def _problem(inputs: Sequence[Input], within: tuple[float, float]) -> dict[str, Any]:
    return {
        "num_vars": len(inputs),
        "names": [i.name for i in inputs],
        "bounds": [list(within)] * len(inputs),
    }


def _values(inputs: Sequence[Input], X: Array) -> dict[str, Array]:
    """Values of the inputs at quantiles ``(point, input)``."""
    return {i.name: i.at(ndtri(X[:, k])) for k, i in enumerate(inputs)}


def _whole(Y: Array, block: int, outcome: str) -> tuple[NDArray[np.bool_], float]:
    """Rows of the blocks (trajectories, or points with their neighbours) in which the outcome is there throughout, and their share."""
    whole: NDArray[np.bool_] = np.all(np.isfinite(Y).reshape(-1, block), axis=1)
    if whole.sum() < min(FEWEST, len(whole)):
        raise InputError(
            "an outcome is there at hardly any point",
            field=outcome,
            found=f"{whole.sum()} of {len(whole)} groups of points",
            expected=f"at least {FEWEST}",
            remedy="Choose a tissue that has what the outcome speaks of, or more points.",
        )
    return np.repeat(whole, block), float(whole.mean())


def _salib() -> None:
    try:
        import SALib  # noqa: F401
    except ImportError as error:
        raise InputError(
            "a sensitivity ranking needs the package SALib",
            field="sensitivity",
            found="not installed",
            remedy="pip install nanopinn[sensitivity]",
        ) from error
