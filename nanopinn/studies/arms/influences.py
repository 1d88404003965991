"""Ranking of the inputs of an arm's outcome in a patient's tumour."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from nanopinn.parameters import PARAMETERS, Parameter
from nanopinn.physics.treatment import Treatment
from nanopinn.results import InputSensitivity
from nanopinn.solvers.krogh_exposure import KillCriteria
from nanopinn.studies.arms.patient import Patient
from nanopinn.studies.arms.sensitivity_ranking import (
    RANKED_MAPS,
    RANKED_SYMBOLS,
    UncertainInput,
    input_from_parameter,
    input_from_table,
    rank_penetration_inputs,
)
from nanopinn.studies.temperature import temperature_course


def rank_influences(
    patient: Patient,
    treatment: Treatment,
    filtration: float,
    *,
    counted: KillCriteria,
    seed: int,
    medians: Mapping[str, float] | None = None,
    stated: Collection[str] = (),
) -> tuple[InputSensitivity, ...]:
    """Rank inputs by their effect on the fraction of cells beyond the limit that a treatment kills.

    Unknowns of a fit vary within its posterior, other inputs within the distributions of the table.
    Stated values do not vary.

    Args:
        patient: tissue and posterior.
        treatment: what is given.
        filtration: mean over the tumour, 1/s.
        counted: thresholds for counting cells.
        seed: of the random numbers.
        medians: of other parameters by symbol, in place of the table's.
        stated: names of stated values.

    Returns:
        Sensitivities by falling effect.

    Raises:
        InputError: as :func:`rank_penetration_inputs`.
    """
    tissue = patient.tissue
    scalars = patient.scalars_for(treatment.carrier)
    known = {k: float(v) for k, v in scalars.items() if np.ndim(v) == 0}
    temperature, _, _ = temperature_course(treatment, tissue)
    own = {
        name: float(getattr(tissue.maps, name)[tissue.maps.tumour > 0.5].mean())
        for name in RANKED_MAPS
    }
    rows = _ranked_parameters(treatment)
    inputs = [
        _posterior_input(patient, s) or input_from_parameter(p, known.get(s))
        for s, p in rows.items()
        if s not in stated
    ]
    inputs += [input_from_table(t, own[name], name) for name, t in RANKED_MAPS.items()]
    found = rank_penetration_inputs(
        tissue.maps,
        treatment,
        (filtration, 0.0),
        scalars=known,
        values=medians,
        temperature=temperature,
        inputs=inputs,
        counted=counted,
        seed=seed,
    )
    s = next(r for name, r in found.items() if name.startswith("killed"))
    at = {name: i for i, name in enumerate(s.leading)}
    words = {
        **{s: p.name for s, p in rows.items()},
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


def _ranked_parameters(treatment: Treatment) -> dict[str, Parameter]:
    """Uncertain parameters that are ranked for a treatment, by symbol.

    Those of carriers matter only with the carrier. Plasma kinetics are those of the subject.
    """
    carrier, free = treatment.carrier, treatment.doses[0].formulation
    drug = carrier or free
    of_carriers = {"krel_TSL_hot", "T_m", "PS_l", "leak_l"}
    of_kinetics = {"CL_dox": free.free_drug.clearance}
    if carrier is not None and carrier.circulation is not None:
        of_kinetics |= {
            "k_TSL": carrier.circulation.rates[-1],
            "V_TSL": carrier.circulation.volume,
        }
    found = {}
    for ranked in RANKED_SYMBOLS:
        symbol = of_kinetics.get(ranked, ranked)
        absent = ranked in ("k_TSL", "V_TSL") and ranked not in of_kinetics
        if absent or (ranked in of_carriers and symbol not in drug.symbols()):
            continue
        found[symbol] = drug.parameter(symbol)
    return {s: p for s, p in found.items() if p.distribution() is not None}
