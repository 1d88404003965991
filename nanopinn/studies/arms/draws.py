"""Joint draws of all inputs of a treatment's outcome: from the posterior of a patient, and from the
priors of all other parameters.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.inference.radiation_effect import (
    RadiationEffect,
    describe_radiation_effect,
    draw_radiation_effect,
)
from nanopinn.parameters import PARAMETERS, RANGE_INTERPRETATION, Parameter, default_scalars
from nanopinn.physics.treatment import RADIATION_FACTOR_SYMBOLS
from nanopinn.studies.arms.patient import Patient

if TYPE_CHECKING:
    from nanopinn.physics.formulation import Formulation
    from nanopinn.studies.arms.arm_specs import Arm

Array = NDArray[np.float64]

#: Parameters of every arm besides those of its formulation: walls and interstitium, cells, vessels
#: and oxygen of the sub-voxel model, cell kill.
WALL_SYMBOLS = ("SV_t", "P_f_t", "sigma_f", "D_f_t", "P_b_t", "sigmaT_t", "D_b_t", "k_a", "k_d")
CELL_SYMBOLS = ("rho_c", "Vmax", "K_e", "K_i", "k_off_DNA", "g_pH")
VESSEL_SYMBOLS = ("Hct", "tau_c", "R_c", "spread_Rt", "D_O2", "M_O2", "p_O2_v")
KILL_SYMBOLS = ("EC50_i", "m_hill", "f_max", "k_kill_H", "res_q")
#: Conventions, such as reference values and definitions, which have no uncertainty.
CONVENTIONS = frozenset({"pH_ref", "T_hot", "T_body", "RT_D", "HT_T", "p_O2_hyp", "p_O2_nec"})


@dataclass(frozen=True)
class InputDraws:
    """Joint draws of all uncertain inputs; row 0 is the median of all, the other rows are draws.

    Attributes:
        scalars: of the model, SI, ``(draw,)``; weights of functions ``(draw, k)``.
        values: other parameters by symbol, SI, ``(draw,)``.
        relative_aif_scale: divisor of PS, phi and v_p of the maps, ``(draw,)``; 1 unless the scale
            of the arterial input was fitted.
        assumptions: one sentence each.
    """

    scalars: Mapping[str, Array]
    values: Mapping[str, Array]
    relative_aif_scale: Array
    assumptions: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.relative_aif_scale)

    def select_draws(self, chosen: slice) -> InputDraws:
        """A slice of the draws."""
        scalars, values = (
            {n: v[chosen] for n, v in of.items()} for of in (self.scalars, self.values)
        )
        return InputDraws(scalars, values, self.relative_aif_scale[chosen], self.assumptions)

    def scalars_at_draw(self, i: int) -> dict[str, float | Array]:
        """Scalars of one draw."""
        return {name: float(v[i]) if v.ndim == 1 else v[i] for name, v in self.scalars.items()}

    def inputs(self) -> dict[str, Array]:
        """Every number that varies between draws, ``(draw,)``, by name."""
        plain = {n: v for n, v in self.scalars.items() if v.ndim == 1}
        weights = {
            f"{n}[{k}]": v[:, k]
            for n, v in self.scalars.items()
            if v.ndim == 2
            for k in range(v.shape[1])
        }
        every = {**plain, **weights, **self.values, "aif_scale": self.relative_aif_scale}
        return {n: v for n, v in every.items() if np.ptp(v) > 0}


def draw_inputs(
    patient: Patient,
    arms: Sequence[Arm],
    n: int,
    seed: int,
    *,
    radiation: RadiationEffect | None = None,
) -> InputDraws:
    """Draw all uncertain inputs of the arms.

    Every quantity has its own stream of random numbers, so a draw depends neither on ``n`` nor on
    the arms that are compared.

    Args:
        patient: tissue and posterior.
        arms: treatments.
        n: number of draws, besides the median.
        seed: of the random numbers.
        radiation: posterior of the effect of radiation from two scans, in place of the table's
            priors.

    Raises:
        InputError: ``n`` is negative.
    """
    if n < 0:
        raise InputError(
            "the number of draws is negative",
            field="draws",
            found=n,
            expected="0 (the median only) or more",
        )
    theta = posterior_draws(patient, n, seed)
    scalars = patient.scalars_at(theta) if patient.names else {}
    known = {**default_scalars(), **patient.tissue.scalars}
    scalars |= {
        k: np.repeat(np.asarray(v)[None], n + 1, axis=0)
        for k, v in known.items()
        if k not in scalars
    }
    values = {
        p.symbol: draw_parameter(p, n, seed)
        for p in uncertain_parameters(arms)
        if p.symbol not in scalars
    }
    if radiation is not None and any(a.treatment.radiation.fractions for a in arms):
        values |= _draw_radiation_effect(radiation, values, n, seed)
    return InputDraws(
        scalars,
        values,
        patient.relative_aif_scale(theta),
        tuple(_notes(patient, arms, values, n, radiation)),
    )


def posterior_draws(patient: Patient, n: int, seed: int) -> Array:
    """Draw coordinates of the fit's unknowns, ``(n + 1, m)``; the estimate is first."""
    m = len(patient.names)
    z = np.concatenate(
        [np.zeros((1, m)), _random_stream("posterior", seed).standard_normal((n, m))]
    )
    variances, axes = np.linalg.eigh(patient.covariance)
    # only the symmetric root does not depend on the signs of the eigenvectors
    root = (axes * np.sqrt(variances.clip(0.0))) @ axes.T
    return np.asarray(patient.mean + z @ root)


def draw_parameter(parameter: Parameter, n: int, seed: int) -> Array:
    """Draw a parameter from its prior or range, ``(n + 1,)``; its value is first."""
    distribution = parameter.distribution()
    assert distribution is not None
    return distribution.values_at_deviates(
        np.append(0.0, _random_stream(parameter.symbol, seed).standard_normal(n))
    )


def uncertain_parameters(arms: Sequence[Arm]) -> tuple[Parameter, ...]:
    """Uncertain parameters of the arms, from the table and from the formulations' own."""
    wanted = {s: PARAMETERS[s] for s in WALL_SYMBOLS + CELL_SYMBOLS + VESSEL_SYMBOLS + KILL_SYMBOLS}
    for f in arm_formulations(arms):
        wanted |= {s: f.parameter(s) for s in f.symbols()}
    if any(a.treatment.radiation.fractions for a in arms):
        wanted |= _parameters_with_prefix("RT_")
    if any(a.treatment.heating_intervals_s for a in arms):
        wanted |= _parameters_with_prefix("HT_")
    return tuple(
        p for s, p in wanted.items() if s not in CONVENTIONS and p.distribution() is not None
    )


def arm_formulations(arms: Sequence[Arm]) -> tuple[Formulation, ...]:
    """Every formulation of the arms."""
    return tuple(dict.fromkeys(g.formulation for a in arms for g in a.treatment.doses))


def _random_stream(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _parameters_with_prefix(prefix: str) -> dict[str, Parameter]:
    return {s: p for s, p in PARAMETERS.items() if s.startswith(prefix)}


def _draw_radiation_effect(
    radiation: RadiationEffect, values: Mapping[str, Array], n: int, seed: int
) -> dict[str, Array]:
    z = np.concatenate(
        [
            np.zeros((1, len(RADIATION_FACTOR_SYMBOLS))),
            _random_stream("radiation", seed).standard_normal((n, len(RADIATION_FACTOR_SYMBOLS))),
        ]
    )
    logs = draw_radiation_effect(radiation, z, values["RT_t_peak"])
    return {
        symbol: np.exp(logs[:, radiation.names.index(name)])
        for name, symbol in RADIATION_FACTOR_SYMBOLS.items()
    }


def _notes(
    patient: Patient,
    arms: Sequence[Arm],
    values: Mapping[str, Array],
    n: int,
    radiation: RadiationEffect | None,
) -> Iterable[str]:
    if n:
        yield (
            f"{n} joint draws: unknowns of the fit from its posterior, and {len(values)} other"
            " parameters independently of each other."
        )
        yield RANGE_INTERPRETATION
    if not patient.names:
        yield "Scalars of the tissue are not inferred and are the same in every draw."
    for f in arm_formulations(arms):
        if f.permeability == "PS_l" and f.name != patient.imaged_formulation and patient.names:
            of = (
                f"images of the {patient.imaged_formulation} carrier"
                if patient.imaged_formulation
                else "a prior, because no image showed a carrier"
            )
            yield (
                f"{f.name}: the permeability of vessel walls and the solvent-drag transmission"
                f" (PS_l, leak_l) are taken from {of}."
            )
    if radiation is not None:
        yield describe_radiation_effect(radiation)
