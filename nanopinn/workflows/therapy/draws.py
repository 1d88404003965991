"""Joint draws of everything a treatment's outcome rests on: the fit's posterior, and priors of all else."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.parameters import PARAMETERS, Parameter
from nanopinn.parameters.spread import RANGE_INTERPRETATION
from nanopinn.physics.model import default_scalars
from nanopinn.physics.radiation import RADIATION_FACTOR_SYMBOLS
from nanopinn.workflows.therapy.patient import Patient

if TYPE_CHECKING:
    from nanopinn.inference.radiation_effect import RadiationEffect
    from nanopinn.physics.formulation import Formulation
    from nanopinn.workflows.therapy.arms import Arm

Array = NDArray[np.float64]

#: What every arm rests on beside its formulation: walls and interstitium, cells, vessels and oxygen under the voxel, cell kill.
WALLS = ("SV_t", "P_f_t", "sigma_f", "D_f_t", "P_b_t", "sigmaT_t", "D_b_t", "k_a", "k_d")
CELLS = ("rho_c", "Vmax", "K_e", "K_i", "k_off_DNA", "g_pH")
VESSELS = ("Hct", "tau_c", "R_c", "spread_Rt", "D_O2", "M_O2", "p_O2_v")
KILL = ("EC50_i", "m_hill", "f_max", "k_kill_H", "res_q")
#: Conventions: where a law is stated, or what a word means. They have no uncertainty to draw.
CONVENTIONS = frozenset({"pH_ref", "T_hot", "T_body", "RT_D", "HT_T", "p_O2_hyp", "p_O2_nec"})


@dataclass(frozen=True)
class InputDraws:
    """Everything uncertain, drawn together: row 0 is the median of everything, the others are draws.

    Attributes:
        scalars: of the model (SI), ``(draw,)``; weights of functions ``(draw, k)``.
        values: other parameters by symbol (SI), ``(draw,)``.
        relative_aif_scale: what PS, phi and v_p of the maps are divided by, ``(draw,)``: 1 unless the arterial input's scale was fitted.
        assumptions: how they were drawn, one sentence each.
    """

    scalars: Mapping[str, Array]
    values: Mapping[str, Array]
    relative_aif_scale: Array
    assumptions: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.relative_aif_scale)

    def select_draws(self, chosen: slice) -> InputDraws:
        """Some of the draws."""
        scalars, values = (
            {n: v[chosen] for n, v in of.items()} for of in (self.scalars, self.values)
        )
        return InputDraws(scalars, values, self.relative_aif_scale[chosen], self.assumptions)

    def scalars_at_draw(self, i: int) -> dict[str, float | Array]:
        """Scalars of one draw."""
        return {name: float(v[i]) if v.ndim == 1 else v[i] for name, v in self.scalars.items()}

    def inputs(self) -> dict[str, Array]:
        """Every number that varies from draw to draw, ``(draw,)``, by name."""
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
    """Draw all that the arms rest on ``n`` times, beside the median.

    A draw is the same whatever n is and whichever arms are compared: every quantity has its own stream of random numbers.

    Args:
        radiation: what two scans say of radiation's effect, in place of the table's priors.

    Raises:
        InputError: ``n`` is negative.
    """
    if n < 0:
        raise InputError(
            "a number of draws is not negative",
            field="draws",
            found=n,
            expected="0 (the median alone) or more",
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
    """Coordinates of the fit's unknowns, ``(n + 1, m)``, the estimate first."""
    m = len(patient.names)
    z = np.concatenate(
        [np.zeros((1, m)), _random_stream("posterior", seed).standard_normal((n, m))]
    )
    variances, axes = np.linalg.eigh(patient.covariance)
    # the symmetric root is the only one that is the same whatever sign an eigenvector comes with
    root = (axes * np.sqrt(variances.clip(0.0))) @ axes.T
    return np.asarray(patient.mean + z @ root)


def draw_parameter(parameter: Parameter, n: int, seed: int) -> Array:
    """A parameter, ``(n + 1,)``: its value first, then draws from its prior or range."""
    spread = parameter.distribution()
    assert spread is not None
    return spread.values_at_deviates(
        np.append(0.0, _random_stream(parameter.symbol, seed).standard_normal(n))
    )


def uncertain_parameters(arms: Sequence[Arm]) -> tuple[Parameter, ...]:
    """Parameters, of the table and of formulations' own, that some arm rests on and that have an uncertainty."""
    wanted = {s: PARAMETERS[s] for s in (*WALLS, *CELLS, *VESSELS, *KILL)}
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
    """Every formulation that some arm gives."""
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
    logs = radiation.draw(z, values["RT_t_peak"])
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
        yield f"{n} joint draws: unknowns of the fit from its posterior, {len(values)} other parameters independently of each other."
        yield RANGE_INTERPRETATION
    if not patient.names:
        yield "Scalars of the tissue are known, not inferred: they are the same in every draw."
    for f in arm_formulations(arms):
        if f.permeability == "PS_l" and f.name != patient.imaged_formulation and patient.names:
            of = (
                f"images of the {patient.imaged_formulation} carrier"
                if patient.imaged_formulation
                else "a prior, for no image showed a carrier"
            )
            yield f"{f.name}: its passage through vessel walls (PS_l, leak_l) is taken from {of}."
    if radiation is not None:
        yield radiation.describe()
