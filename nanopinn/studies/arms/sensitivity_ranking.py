"""Which inputs an outcome answers to: Morris' elementary effects of all of them, Sobol's indices of
those that lead.

Every input is moved through its own distribution: an effect is the change of the outcome when one
input goes through two thirds of its 95 % interval while the others stand anywhere in theirs.
Source: Morris 1991 with Campolongo's mean of absolute effects (2007); Saltelli 2010 and Jansen 1999
for the indices; both by SALib.

Which inputs the reach of a treatment answers to, in one cluster of the tumour's mean tissue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri

from nanopinn.errors import InputError
from nanopinn.parameters import PARAMETERS
from nanopinn.parameters.table import parameter_distribution
from nanopinn.parameters.units import UM
from nanopinn.parameters.unknown_registry import SCALARS
from nanopinn.physics.heat import TemperatureCourse
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.physics.treatment import Treatment
from nanopinn.progress import Progress, ignore_progress
from nanopinn.results.comparison_result import InputSensitivity
from nanopinn.solvers.krogh_exposure import KillCriteria
from nanopinn.solvers.krogh_treatment import MicroscaleModel, solve_exposure
from nanopinn.studies.arms.draws import Patient
from nanopinn.studies.heating import temperature_course

Array = NDArray[np.float64]
#: Value of every outcome at many points, by name, from values of every input there, by name; NaN
#: where an outcome is not there.
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
        spread: standard deviation of the elementary effects: interaction with other inputs, or
            curvature.
        leading: the inputs whose indices were found, as in ``inputs``.
        first, total: share of the outcome's variance that an input explains alone, and with all
            others; the others fixed at their medians.
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
                else (
                    f"   alone {self.first[at]:5.2f}, in all {self.total[at]:5.2f} +-"
                    f" {self.total_error[at]:.2f}"
                )
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
    """Rows of the blocks (trajectories, or points with their neighbours) in which the outcome is
    there throughout, and their share.
    """
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


#: Inputs by symbol of the table: vessels, cells, release, walls and interstitium, nuclei, plasma.
RANKED_SYMBOLS = (
    "tau_c",
    "R_c",
    "spread_Rt",
    "EC50_i",
    "res_q",
    "krel_TSL_hot",
    "T_m",
    "P_f_t",
    "D_f_t",
    "Vmax",
    "K_e",
    "K_i",
    "k_on_DNA",
    "k_off_DNA",
    "CL_dox",
    "k_TSL",
    "V_TSL",
    "PS_l",
    "leak_l",
    "g_pH",
)
#: Inputs that are maps, and the symbol of the table whose spread they have about the tumour's own
#: mean.
RANKED_MAPS = {"v_p": "vp_t", "phi": "ve_t"}
#: So many that some tissue lies far from vessels under nearly every draw.
RADIUS_CLASSES = 7


def rank_penetration_inputs(
    maps: TissueMaps,
    treatment: Treatment,
    exchange: tuple[float, float],
    *,
    scalars: Mapping[str, float] | None = None,
    temperature: TemperatureCourse | None = None,
    inputs: Sequence[UncertainInput] | None = None,
    law: str = "peak",
    counted: KillCriteria | None = None,
    trajectories: int = 16,
    leading: int = 6,
    points: int = 64,
    seed: int = 0,
    progress: Progress = ignore_progress,
) -> dict[str, Sensitivity]:
    """Rank inputs by their effect on what reaches cells far from vessels: how many of them it
    kills, and the peak in them.

    Outcomes are the share of cells beyond ``counted.far_distance_m`` that are killed by the law
    named, and the natural logarithm of the largest drug in cells at that distance; draws without
    tissue so far from vessels are left out of these, with those compared with them. A third is
    there for every draw: the share of all tissue that lies so far away and is not killed.

    Args:
        exchange: filtration and lymphatic drainage, means over the tumour, 1/s.
        scalars: of the model, where they differ from the table's; their spreads are about these.
        inputs: in place of :data:`SYMBOLS` and :data:`MAPS` with the table's spreads.
        trajectories, leading, points, seed: see
            :func:`nanopinn.studies.arms.sensitivity_ranking.rank`.

    Raises:
        InputError: SALib is not installed, or hardly any draw has tissue so far from vessels.
    """
    counted, known = counted or KillCriteria(), dict(scalars or {})
    tumour = maps.tumour > 0.5
    labels = torch.where(tumour, 0, -1)
    J_v, J_L = exchange

    def evaluate(at: Mapping[str, Array]) -> dict[str, Array]:
        n = len(next(iter(at.values())))
        moved = {k: v for k, v in at.items() if k in SCALARS}
        values = {k: v for k, v in at.items() if k not in SCALARS and k not in RANKED_MAPS}
        microscale = MicroscaleModel.from_arrays(
            maps,
            labels,
            n,
            {**known, **moved},
            values,
            lambda t: (np.full((n, 1), J_v), np.full((n, 1), J_L)),
            temperature=temperature,
            classes=RADIUS_CLASSES,
            uniform_maps={k: at[k] for k in RANKED_MAPS if k in at},
        )
        exposures = solve_exposure(
            microscale, treatment, times_s=[treatment.end_s], counted=counted, progress=progress
        )
        nearest = int((exposures.distances_m - counted.far_distance_m).abs().argmin())
        far = f"{counted.far_distance_m / UM:g} um"
        killed = exposures.killed[law]["beyond"][:, 0]
        return {
            f"out of reach, beyond {far} and not killed ({law})": (
                exposures.shares["beyond"][:, 0] * (1 - killed)
            )
            .nan_to_num()
            .cpu()
            .numpy(),
            f"killed beyond {far} ({law})": killed.cpu().numpy(),
            f"log peak in cells at {far}": exposures.peak_intracellular[:, 0, nearest]
            .log()
            .cpu()
            .numpy(),
        }

    own = {name: float(getattr(maps, name)[tumour].mean()) for name in RANKED_MAPS}
    chosen = inputs or [
        *(input_from_table(s, known.get(s)) for s in RANKED_SYMBOLS),
        *(input_from_table(t, own[name], name) for name, t in RANKED_MAPS.items()),
    ]
    return rank_inputs(
        chosen, evaluate, trajectories=trajectories, leading=leading, points=points, seed=seed
    )


def input_from_table(
    symbol: str, median: float | None = None, name: str | None = None
) -> UncertainInput:
    """An input with the spread that its row of the table says, about another median if there is
    one.

    Raises:
        KeyError: the row says nothing of its uncertainty.
    """
    spread = parameter_distribution(PARAMETERS[symbol])
    if spread is None:
        raise KeyError(f"{symbol} has neither a prior nor a range")
    return UncertainInput(
        name or symbol,
        (spread if median is None else replace(spread, median=median)).values_at_deviates,
    )


def rank_influences(
    patient: Patient, treatment: Treatment, filtration: float, *, counted: KillCriteria, seed: int
) -> tuple[InputSensitivity, ...]:
    """What the share of cells beyond the limit that a treatment kills follows, by falling effect.

    Unknowns of a fit spread as its posterior says, all else as the table does.

    Args:
        filtration: mean over the tumour, 1/s.

    Raises:
        InputError: as :func:`rank_penetration_inputs`.
    """
    tissue = patient.tissue
    known = {k: float(v) for k, v in tissue.scalars.items() if np.ndim(v) == 0}
    temperature, _, _ = temperature_course(treatment, tissue)
    own = {
        name: float(getattr(tissue.maps, name)[tissue.maps.tumour > 0.5].mean())
        for name in RANKED_MAPS
    }
    inputs = [
        _posterior_input(patient, s) or input_from_table(s, known.get(s))
        for s in RANKED_SYMBOLS
        if _depends_on(treatment, s)
    ]
    inputs += [input_from_table(t, own[name], name) for name, t in RANKED_MAPS.items()]
    found = rank_penetration_inputs(
        tissue.maps,
        treatment,
        (filtration, 0.0),
        scalars=known,
        temperature=temperature,
        inputs=inputs,
        counted=counted,
        seed=seed,
    )
    s = next(r for name, r in found.items() if name.startswith("killed"))
    at = {name: i for i, name in enumerate(s.leading)}
    words = {
        **{p: PARAMETERS[p].name for p in RANKED_SYMBOLS},
        **{n: PARAMETERS[t].name for n, t in RANKED_MAPS.items()},
    }
    return tuple(
        InputSensitivity(
            n,
            words[n],
            float(e),
            *((float(s.total[at[n]]), float(s.total_error[at[n]])) if n in at else (None, None)),
        )
        for n, e in zip(s.inputs, s.effect, strict=True)
    )


def _posterior_input(patient: Patient, symbol: str) -> UncertainInput | None:
    if symbol not in patient.names:
        return None
    i = patient.names.index(symbol)
    mean, sd = float(patient.mean[i]), float(np.sqrt(patient.covariance[i, i]))
    log = next(u for u in patient.unknowns.items if u.name == symbol).scale == "log"
    return UncertainInput(symbol, lambda z: np.exp(mean + sd * z) if log else mean + sd * z)


def _depends_on(treatment: Treatment, symbol: str) -> bool:
    """Whether a treatment has anything to do with a symbol: those of carriers are of the one given."""
    of_carriers = {"krel_TSL_hot", "T_m", "k_TSL", "V_TSL", "PS_l", "leak_l"}
    return symbol not in of_carriers or (
        treatment.carrier is not None and symbol in treatment.carrier.symbols()
    )
