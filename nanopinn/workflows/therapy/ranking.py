"""Which inputs the reach of a treatment answers to, in one cluster of the tumour's mean tissue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from nanopinn.parameters import PARAMETERS
from nanopinn.parameters.spread import parameter_distribution
from nanopinn.physics.model import SCALARS, TissueMaps
from nanopinn.physics.temperature import TemperatureCourse
from nanopinn.progress import Progress, ignore_progress
from nanopinn.report.compared import InputSensitivity
from nanopinn.solvers.exposure import KillCriteria
from nanopinn.workflows.simulate.heating import temperature_course
from nanopinn.workflows.therapy.patient import Patient
from nanopinn.workflows.therapy.sensitivity import UncertainInput, Sensitivity, rank_inputs
from nanopinn.workflows.therapy.under_voxel import MicroscaleModel, solve_exposure
from nanopinn.workflows.treatment import Treatment

Array = NDArray[np.float64]

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
#: Inputs that are maps, and the symbol of the table whose spread they have about the tumour's own mean.
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
    """Rank inputs by their effect on what reaches cells far from vessels: how many of them it kills, and the peak in them.

    Outcomes are the share of cells beyond ``counted.far_distance_m`` that are killed by the law named, and the natural logarithm of the largest
    drug in cells at that distance; draws without tissue so far from vessels are left out of these, with those compared with them.
    A third is there for every draw: the share of all tissue that lies so far away and is not killed.

    Args:
        exchange: filtration and lymphatic drainage, means over the tumour, 1/s.
        scalars: of the model, where they differ from the table's; their spreads are about these.
        inputs: in place of :data:`SYMBOLS` and :data:`MAPS` with the table's spreads.
        trajectories, leading, points, seed: see :func:`nanopinn.workflows.therapy.sensitivity.rank`.

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
        microscale = MicroscaleModel.of(
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
        far = f"{counted.far_distance_m * 1e6:g} um"
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
    """An input with the spread that its row of the table says, about another median if there is one.

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
