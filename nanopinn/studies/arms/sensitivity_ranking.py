"""Global sensitivity analysis: Morris' elementary effects of all inputs, and Sobol indices of the
most influential ones; applied to the penetration of a treatment in the tumour's mean tissue.

Every input varies within its own distribution. An elementary effect is the change of the outcome
when one input moves over two thirds of its 95 % interval while the others are anywhere in theirs.

References:
    Morris, Technometrics 33:161 (1991); Campolongo et al., Environ. Model. Softw. 22:1509 (2007).
    Saltelli et al., Comput. Phys. Commun. 181:259 (2010); Jansen, Comput. Phys. Commun. 117:35
    (1999). Both methods are those of SALib.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri

from nanopinn.errors import InputError
from nanopinn.parameters import PARAMETERS, SCALARS, UM, Parameter, parameter_distribution
from nanopinn.physics.heat import TemperatureCourse
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.physics.treatment import Treatment
from nanopinn.progress import Progress, ignore_progress
from nanopinn.results import GlobalSensitivity
from nanopinn.solvers.krogh_exposure import KillCriteria
from nanopinn.solvers.krogh_treatment import MicroscaleModel, solve_exposure

Array = NDArray[np.float64]
#: Values of every outcome by name from values of every input by name, ``(point,)`` each; NaN where
#: an outcome does not exist.
OutcomeEvaluator = Callable[[Mapping[str, Array]], Mapping[str, Array]]

#: Quantiles between which inputs vary in Morris' method, and between which Sobol's points lie.
MORRIS_QUANTILES, SOBOL_QUANTILES = (0.025, 0.975), (1e-3, 1 - 1e-3)
#: Levels of the grid in Morris' method.
MORRIS_LEVELS = 4
#: Smallest number of trajectories or points for an index.
MIN_BLOCKS = 4
#: Ranked inputs by symbol of the table: vessels, cells, release, walls and interstitium, nuclei,
#: plasma. Symbols of plasma kinetics stand for those of the carrier and the species.
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
#: Ranked inputs that are maps, and the symbol of the table whose distribution they have about the
#: tumour's own mean.
RANKED_MAPS = {"v_p": "vp_t", "phi": "ve_t"}
#: Classes of tissue radius: enough for tissue far from vessels in nearly every draw.
RADIUS_CLASSES = 7


@dataclass(frozen=True)
class UncertainInput:
    """An uncertain input.

    Attributes:
        name: of the input.
        values_at_deviates: values at standard normal deviates, increasing.
    """

    name: str
    values_at_deviates: Callable[[Array], Array]


def rank_inputs(
    inputs: Sequence[UncertainInput],
    evaluate: OutcomeEvaluator,
    *,
    trajectories: int = 16,
    leading: int = 6,
    points: int = 64,
    seed: int = 0,
) -> dict[str, GlobalSensitivity]:
    """Rank inputs by their effect on every outcome, with Sobol indices of the most influential.

    The cost is ``trajectories (inputs + 1) + points (leading + 2)`` evaluations, in two calls.

    Args:
        inputs: with their distributions.
        evaluate: the outcomes as a function of the inputs.
        trajectories: of Morris' method.
        leading: number of inputs with Sobol indices; 0 for none.
        points: base points of the Sobol indices, a power of 2.
        seed: of the random numbers.

    Returns:
        By outcome.

    Raises:
        InputError: SALib is not installed, or an outcome exists at too few points.
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
) -> dict[str, GlobalSensitivity]:
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
        found[outcome] = GlobalSensitivity(
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
    screened: Mapping[str, GlobalSensitivity],
) -> dict[str, GlobalSensitivity]:
    from SALib.analyze import sobol as analysis
    from SALib.sample import sobol as sampling

    problem = _problem(chosen, SOBOL_QUANTILES)
    X = sampling.sample(problem, points, calc_second_order=False, seed=seed)
    rest = {i.name: i.values_at_deviates(np.zeros(len(X))) for i in inputs if i not in chosen}
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
        found[outcome] = GlobalSensitivity(
            outcome,
            s.inputs,
            s.effect,
            s.effect_sd,
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
    """Values of the inputs by name, from quantiles ``(point, input)``."""
    return {i.name: i.values_at_deviates(ndtri(X[:, k])) for k, i in enumerate(inputs)}


def _complete_blocks(Y: Array, block: int, outcome: str) -> tuple[NDArray[np.bool_], float]:
    """Rows of the blocks (trajectories or Sobol points) in which the outcome exists throughout, and
    their fraction.
    """
    complete: NDArray[np.bool_] = np.all(np.isfinite(Y).reshape(-1, block), axis=1)
    if complete.sum() < min(MIN_BLOCKS, len(complete)):
        raise InputError(
            "an outcome exists at too few points",
            field=outcome,
            found=f"{complete.sum()} of {len(complete)} blocks of points",
            expected=f"at least {MIN_BLOCKS}",
            remedy="Choose a tissue in which the outcome exists, or more points.",
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
            remedy="Install the extra nanopinn[sensitivity].",
        ) from error


def rank_penetration_inputs(
    maps: TissueMaps,
    treatment: Treatment,
    exchange: tuple[float, float],
    *,
    scalars: Mapping[str, float] | None = None,
    values: Mapping[str, float] | None = None,
    temperature: TemperatureCourse | None = None,
    inputs: Sequence[UncertainInput] | None = None,
    law: str = "peak",
    counted: KillCriteria | None = None,
    trajectories: int = 16,
    leading: int = 6,
    points: int = 64,
    seed: int = 0,
    progress: Progress = ignore_progress,
) -> dict[str, GlobalSensitivity]:
    """Rank inputs by their effect on cell kill far from vessels.

    The outcomes are the fraction of cells beyond ``counted.far_distance_m`` that are killed, the
    natural logarithm of the peak intracellular concentration at that distance, and the fraction of
    all tissue that lies beyond it and is not killed. The first two do not exist in draws without
    tissue so far from vessels; these are left out with those compared with them.

    Args:
        maps: of the tissue.
        treatment: what is given.
        exchange: filtration and lymphatic drainage, means over the tumour, 1/s.
        scalars: of the model where they differ from the table's; medians of their distributions.
        values: of parameters by symbol that do not vary, in place of the table's.
        temperature: of the tissue, if it is heated.
        inputs: in place of :data:`RANKED_SYMBOLS` and :data:`RANKED_MAPS`.
        law: key of the kill model.
        counted: thresholds for counting cells.
        trajectories, leading, points, seed: see :func:`rank_inputs`.
        progress: called with the stage and the fraction that is done.

    Returns:
        By outcome.

    Raises:
        InputError: SALib is not installed, or too few draws have tissue so far from vessels.
    """
    counted, known = counted or KillCriteria(), dict(scalars or {})
    tumour = maps.tumour > 0.5
    labels = torch.where(tumour, 0, -1)
    J_v, J_L = exchange

    def evaluate(at: Mapping[str, Array]) -> dict[str, Array]:
        n = len(next(iter(at.values())))
        moved = {k: v for k, v in at.items() if k in SCALARS}
        drawn = {k: v for k, v in at.items() if k not in SCALARS and k not in RANKED_MAPS}
        microscale = MicroscaleModel.from_arrays(
            maps,
            labels,
            n,
            {**known, **moved},
            {**(values or {}), **drawn},
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
            f"beyond {far} and not killed ({law})": (
                exposures.shares["beyond"][:, 0] * (1 - killed)
            )
            .nan_to_num()
            .cpu()
            .numpy(),
            f"killed beyond {far} ({law})": killed.cpu().numpy(),
            f"log peak intracellular at {far}": exposures.peak_intracellular[:, 0, nearest]
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
    """An input with the distribution of its row in the table.

    Args:
        symbol: of the table.
        median: in place of that of the table.
        name: of the input, if not the symbol.

    Raises:
        KeyError: the table has neither a prior nor a range.
    """
    return input_from_parameter(PARAMETERS[symbol], median, name)


def input_from_parameter(
    parameter: Parameter, median: float | None = None, name: str | None = None
) -> UncertainInput:
    """An input with the distribution of a parameter.

    Args:
        parameter: with a prior or a range.
        median: in place of its value.
        name: of the input, if not the symbol.

    Raises:
        KeyError: it has neither a prior nor a range.
    """
    distribution = parameter_distribution(parameter)
    if distribution is None:
        raise KeyError(f"{parameter.symbol} has neither a prior nor a range")
    return UncertainInput(
        name or parameter.symbol,
        (
            distribution if median is None else replace(distribution, median=median)
        ).values_at_deviates,
    )
