"""Joint draws of all inputs of a treatment's outcome: from the posterior of a patient, and from the
priors of all other parameters.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.inference.radiation_effect import (
    RadiationEffect,
    describe_radiation_effect,
    draw_radiation_effect,
)
from nanopinn.inference.uncertainty.prior_conflict import ConsideredPosterior
from nanopinn.parameters import (
    RANGE_INTERPRETATION,
    SCALARS,
    ParameterDistribution,
    default_scalars,
    scalars_in_group,
)
from nanopinn.physics.treatment import RADIATION_FACTOR_SYMBOLS
from nanopinn.studies.arms.patient import (
    SCALAR_UPPER_BOUNDS,
    SCALARS_OF_ONE_CARRIER,
    Patient,
)
from nanopinn.studies.simulation_parameters import (
    NORMAL_TISSUE_SYMBOLS,
    StatedValues,
    acting_scalars,
    list_formulations,
    simulation_parameters,
)

if TYPE_CHECKING:
    from nanopinn.physics.formulation import Formulation
    from nanopinn.studies.arms.arm_specs import Arm

Array = NDArray[np.float64]


@dataclass(frozen=True)
class InputDraws:
    """Joint draws of all uncertain inputs; row 0 is the median of all, the other rows are draws.

    Attributes:
        scalars: of the model, SI, ``(draw,)``; weights of functions ``(draw, k)``.
        values: other parameters by symbol, SI, ``(draw,)``.
        relative_aif_scale: divisor of PS, phi and v_p of the maps, ``(draw,)``; 1 unless the scale
            of the arterial input was fitted.
        assumptions: one sentence each.
        other_carriers: scalars that replace those of the carrier that was imaged in treatments with
            another one, SI, ``(draw,)``.
        imaged_formulation: name of the formulation that was imaged, if there was one.
    """

    scalars: Mapping[str, Array]
    values: Mapping[str, Array]
    relative_aif_scale: Array
    assumptions: tuple[str, ...] = ()
    other_carriers: Mapping[str, Array] = field(default_factory=dict)
    imaged_formulation: str | None = None

    def __len__(self) -> int:
        return len(self.relative_aif_scale)

    def select_draws(self, chosen: slice) -> InputDraws:
        """A slice of the draws."""
        scalars, values, others = (
            {n: v[chosen] for n, v in of.items()}
            for of in (self.scalars, self.values, self.other_carriers)
        )
        return replace(
            self,
            scalars=scalars,
            values=values,
            relative_aif_scale=self.relative_aif_scale[chosen],
            other_carriers=others,
        )

    def scalars_for(self, carrier: Formulation | None) -> dict[str, Array]:
        """Scalars for a treatment with a carrier.

        Args:
            carrier: encapsulated formulation of the treatment, if there is one.
        """
        other = carrier is None or carrier.name != self.imaged_formulation
        return {**self.scalars, **(self.other_carriers if other else {})}

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
    stated: StatedValues | None = None,
) -> InputDraws:
    """Draw all uncertain inputs of the arms.

    Every quantity has its own stream of random numbers, so a draw depends neither on ``n`` nor on
    the arms that are compared. Parameters that a fit considered besides its unknowns, such as those
    of plasma kinetics, are drawn jointly from what is left of their uncertainty.

    Args:
        patient: tissue and posterior.
        arms: treatments.
        n: number of draws, besides the median.
        seed: of the random numbers.
        radiation: posterior of the effect of radiation from two scans, in place of the table's
            priors.
        stated: values that are the same in every draw.

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
    scalars |= {
        k: np.repeat(np.asarray(v)[None], n + 1, axis=0)
        for k, v in patient.tissue.scalars.items()
        if k not in scalars
    }
    # a factor on a parameter of the table is 1 where the parameter itself is drawn
    from_priors = [
        s.name for s in SCALARS.values() if s.name not in scalars and s.multiplies is None
    ]
    scalars |= {name: draw_scalar(name, n, seed) for name in from_priors}
    scalars |= {k: np.full(n + 1, v) for k, v in default_scalars().items() if k not in scalars}
    other_carriers = {
        k: draw_scalar(k, n, seed) for k in SCALARS_OF_ONE_CARRIER if k in patient.names
    }
    fitted_factors = {s.multiplies for s in SCALARS.values() if s.name in patient.names}
    distributions = {
        s: d
        for s, d in parameter_distributions(arms).items()
        if s not in scalars and s not in fitted_factors
    }
    values = _draw_considered(patient.considered, distributions, n, seed)
    of_fit = tuple(values)
    values |= {
        s: d.values_at_deviates(standard_deviates(s, n, seed))
        for s, d in distributions.items()
        if s not in values
    }
    if radiation is not None and any(a.treatment.radiation.fractions for a in arms):
        values |= _draw_radiation_effect(radiation, values, n, seed)
    if stated is not None:
        scalars |= {k: np.full(n + 1, v) for k, v in stated.scalars.items()}
        other_carriers = {k: v for k, v in other_carriers.items() if k not in stated.scalars}
        values |= {k: np.full(n + 1, v) for k, v in stated.values.items()}
    acting = acting_scalars([a.treatment for a in arms]) | set(scalars_in_group("flow"))
    of_priors = tuple(name for name in from_priors if name in acting)
    notes = _notes(patient, arms, values, n, radiation, of_priors, of_fit)
    return InputDraws(
        scalars,
        values,
        patient.relative_aif_scale(theta),
        tuple(notes),
        other_carriers,
        patient.imaged_formulation,
    )


def posterior_draws(patient: Patient, n: int, seed: int) -> Array:
    """Draw coordinates of the fit's unknowns, ``(n + 1, m)``; the estimate is first."""
    return draw_normal(patient.mean, patient.covariance, "posterior", n, seed)


def draw_normal(mean: Array, covariance: Array, name: str, n: int, seed: int) -> Array:
    """Draw from a normal distribution, ``(n + 1, m)``; the mean is first.

    Args:
        mean: ``(m,)``.
        covariance: ``(m, m)``.
        name: of the stream of random numbers.
        n: number of draws.
        seed: of the random numbers.
    """
    m = len(mean)
    z = np.concatenate([np.zeros((1, m)), _random_stream(name, seed).standard_normal((n, m))])
    variances, axes = np.linalg.eigh(covariance)
    # only the symmetric root does not depend on the signs of the eigenvectors
    root = (axes * np.sqrt(variances.clip(0.0))) @ axes.T
    return np.asarray(mean + z @ root)


def draw_scalar(name: str, n: int, seed: int) -> Array:
    """Draw a scalar of the model from its prior, ``(n + 1,)``; its default is first."""
    scalar = SCALARS[name]
    sd = scalar.prior.sd
    distribution = ParameterDistribution(scalar.default, sd, sd, scalar.scale == "log")
    drawn = distribution.values_at_deviates(standard_deviates(name, n, seed))
    return np.minimum(drawn, SCALAR_UPPER_BOUNDS.get(name, np.inf))


def standard_deviates(name: str, n: int, seed: int) -> Array:
    """Standard normal deviates of one quantity, ``(n + 1,)``; 0 is first."""
    return np.append(0.0, _random_stream(name, seed).standard_normal(n))


def parameter_distributions(arms: Sequence[Arm]) -> dict[str, ParameterDistribution]:
    """Distributions of the uncertain parameters of the arms, by symbol.

    They are those of the table, of the formulations' own parameters, and of the errors of measured
    plasma samples.
    """
    treatments = [a.treatment for a in arms]
    found = {
        s: d
        for s, p in simulation_parameters(treatments, microscale=True).items()
        if s not in NORMAL_TISSUE_SYMBOLS and (d := p.distribution()) is not None
    }
    for t in treatments:
        if t.measured_plasma is not None:
            found |= t.measured_plasma.error_distributions()
    return found


def _draw_considered(
    considered: ConsideredPosterior | None,
    distributions: Mapping[str, ParameterDistribution],
    n: int,
    seed: int,
) -> dict[str, Array]:
    """Draw the parameters that a fit considered, jointly; row 0 is at the mean of the deviates."""
    if considered is None or not considered.symbols:
        return {}
    z = draw_normal(considered.mean, considered.covariance, "considered parameters", n, seed)
    return {
        s: distributions[s].values_at_deviates(z[:, i])
        for i, s in enumerate(considered.symbols)
        if s in distributions
    }


def _random_stream(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


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
    from_priors: tuple[str, ...],
    of_fit: tuple[str, ...],
) -> Iterable[str]:
    if n and patient.names:
        yield (
            f"{n} joint draws: unknowns of the fit from its posterior, and"
            f" {len(values) - len(of_fit)} other parameters independently of each other."
        )
    elif n:
        yield (
            f"{n} joint draws: {len(from_priors)} scalars of the model and {len(values)} other"
            " parameters, independently of each other."
        )
        if from_priors:
            yield (
                "There is no fit: every scalar of the model that is not stated is drawn from its"
                " prior, so that every interval is one of the prior and not of this tumour."
            )
    if n:
        yield RANGE_INTERPRETATION
    if n and patient.names and from_priors:
        yield (
            f"{', '.join(SCALARS[s].label for s in from_priors)}: not among the unknowns of the"
            " fit, and drawn from the prior."
        )
    if n and of_fit:
        yield (
            f"{', '.join(of_fit)}: drawn jointly from what the fit left of their uncertainty,"
            " independently of its unknowns."
        )
    if not patient.names and not from_priors:
        yield "Scalars of the tissue are not inferred and are the same in every draw."
    for f in list_formulations(a.treatment for a in arms):
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
        for name in SCALARS_OF_ONE_CARRIER & set(patient.names):
            if f.circulation is not None and f.name != patient.imaged_formulation:
                yield (
                    f"{f.name}: the {SCALARS[name].label} is drawn from its prior, because images"
                    f" showed the {patient.imaged_formulation} carrier."
                )
    if radiation is not None:
        yield describe_radiation_effect(radiation)
