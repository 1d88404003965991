"""Release of the drug from its carrier: laws of pH and temperature, and the registry of laws.

The assembled rate of a carrier is :meth:`nanopinn.physics.formulation.Formulation.release_rate`;
:meth:`nanopinn.physics.tumour.TumourModel.release_rate` multiplies it by what a fit found in space
and time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nanopinn.parameters import Number, QuantitySpecification
from nanopinn.physics.flow import bernoulli

#: Knots of the monotone warp of pH.
PH_WARP_KNOTS = (6.2, 6.5, 6.8, 7.1, 7.4)


def warp_ph(pH: Tensor, weights: Tensor) -> Tensor:
    """Monotone warp of pH, ``pH_0 + integral from pH_0 to pH of exp(w(s)) ds``.

    pH_0 is the first knot. w is linear between :data:`PH_WARP_KNOTS` and constant beyond them, so
    that the warp is smooth, and the identity where w = 0. A release law of the warped pH is
    monotone for all weights.

    Args:
        pH: any shape.
        weights: w at the knots, ``(5,)``.
    """
    first, last = PH_WARP_KNOTS[0], PH_WARP_KNOTS[-1]
    out = (
        first
        + torch.exp(weights[0]) * (pH - first).clamp_max(0.0)
        + torch.exp(weights[-1]) * (pH - last).clamp_min(0.0)
    )
    for (a, b), (wa, wb) in zip(
        itertools.pairwise(PH_WARP_KNOTS), itertools.pairwise(weights), strict=True
    ):
        x = (pH - a).clamp(0.0, b - a)
        # int_0^x exp(wa + c s) ds = exp(wa) x (e^{cx} - 1)/(cx)
        out = out + torch.exp(wa) * x / bernoulli((wb - wa) / (b - a) * x)
    return out


def acid_release_rate(
    pH: Tensor,
    k_ref: Number,
    k0: Number,
    pK: Number,
    n: Number,
    pH_ref: Number,
    warp_weights: Tensor | None = None,
) -> Tensor:
    """Release rate of a pH-sensitive carrier, 1/s.

        k(pH) = k0 + (k_ref - k0) h(pH) / h(pH_ref),    h(pH) = 1 / (1 + 10^{n (pH - pK)})

    This is the Hill law ``k0 + (k_max - k0) h(pH)`` written with its rate at a reference pH in
    place of k_max. Tumours are seldom acid enough to show k_max, and k_max and pK would be fully
    correlated.

    Args:
        pH: extracellular pH.
        k_ref: rate at ``pH_ref``, 1/s.
        k0: rate of the untriggered carrier, 1/s.
        pK: pH of half release.
        n: steepness (Hill).
        pH_ref: where ``k_ref`` is stated.
        warp_weights: weights of :func:`warp_ph`, which is applied first; no warp if None.
    """
    ln10 = 2.302585092994046
    pK, at = (torch.as_tensor(v, dtype=pH.dtype, device=pH.device) for v in (pK, pH_ref))
    if warp_weights is not None:
        pH, pK, at = (warp_ph(v, warp_weights) for v in (pH, pK, at))
    h = torch.sigmoid(ln10 * n * (pK - pH))
    h_ref = torch.sigmoid(ln10 * n * (pK - at))
    return k0 + (k_ref - k0) * h / h_ref


def heat_release_rate(
    T_K: Tensor,
    k_hot: Number,
    k_body: Number,
    T_m: Number,
    w: Number,
    T_hot: Number,
    T_body: Number,
) -> Tensor:
    """Release rate of a thermosensitive carrier, 1/s.

        k(T) = k_body + (k_hot - k_body) (h(T) - h(T_body))+ / (h(T_hot) - h(T_body))
        h(T) = 1 / (1 + e^{-(T - T_m)/w})

    This logistic about the transition temperature is written with two measured rates: the leak at
    body temperature, which holds below it too, and the rate at the trigger temperature. The plateau
    is k_hot/h(T_hot), 1.6 k_hot with the table's values.

    Args:
        T_K: temperature, K.
        k_hot: rate at ``T_hot``, 1/s.
        k_body: leak at ``T_body``, 1/s.
        T_m: transition temperature, K.
        w: width of the transition, K.
        T_hot: trigger temperature, K.
        T_body: body temperature, K.

    References:
        Needham, Faraday Discuss. (2013): 60 % in 20 s at the trigger temperature,
        and T_m. The logistic form is an assumption.
    """

    def h(T: Number) -> Tensor:
        return torch.sigmoid((torch.as_tensor(T, dtype=T_K.dtype, device=T_K.device) - T_m) / w)

    return k_body + (k_hot - k_body) * (h(T_K) - h(T_body)).clamp_min(0.0) / (h(T_hot) - h(T_body))


@dataclass(frozen=True)
class ReleaseConditions:
    """Conditions on which the release rate of a carrier depends.

    Attributes:
        pH: extracellular pH, any shape.
        T_K: temperature, K, broadcasting with ``pH``.
        ph_warp: weights of the monotone warp of pH (:func:`warp_ph`); no warp if None.
    """

    pH: Tensor
    T_K: Tensor
    ph_warp: Tensor | None = None


@dataclass(frozen=True)
class ReleaseLaw:
    """One law of triggered release, ``k(conditions)``.

    Attributes:
        key: name of its table in a formulation file.
        rate: release rate in 1/s, of conditions, leak (1/s) and the parameters by name.
        quantities: parameters that a formulation states, in order.
        constants: symbols of parameters that are the same for every formulation, by name.
        default_symbols: symbol in the parameter table of every stated parameter.
        depends_on_pH: whether the multipliers that a fit found for the acid-triggered carrier
            apply.
        depends_on_temperature: whether carriers also release in heated microvessels.
    """

    key: str
    rate: Callable[[ReleaseConditions, Number, Mapping[str, Number]], Tensor]
    quantities: Mapping[str, QuantitySpecification]
    default_symbols: Mapping[str, str]
    constants: Mapping[str, str] = field(default_factory=dict)
    depends_on_pH: bool = False
    depends_on_temperature: bool = False


def _acid_rate(c: ReleaseConditions, leak: Number, values: Mapping[str, Number]) -> Tensor:
    return acid_release_rate(
        c.pH, values["k_ref"], leak, values["pK"], values["n"], values["pH_ref"], c.ph_warp
    )


def _heat_rate(c: ReleaseConditions, leak: Number, values: Mapping[str, Number]) -> Tensor:
    return heat_release_rate(
        c.T_K, values["k_hot"], leak, values["T_m"], values["w"], values["T_hot"], values["T_body"]
    )


#: The release laws that a formulation may have, by the name of their table in its file. Another law
#: is added by one entry.
RELEASE_LAWS: dict[str, ReleaseLaw] = {
    law.key: law
    for law in (
        ReleaseLaw(
            "acid",
            _acid_rate,
            {
                "k_ref": QuantitySpecification("1/s", "release rate at pH_ref"),
                "pK": QuantitySpecification("1", "pH of half release", high=14.0),
                "n": QuantitySpecification("1", "steepness of release along pH", positive=True),
                "pH_ref": QuantitySpecification("1", "pH at which k_ref is stated", high=14.0),
            },
            {"k_ref": "krel_ref", "pK": "pK_rel", "n": "n_rel", "pH_ref": "pH_ref"},
            depends_on_pH=True,
        ),
        ReleaseLaw(
            "heat",
            _heat_rate,
            {
                "k_hot": QuantitySpecification("1/s", "release rate at T_hot"),
                "T_m": QuantitySpecification("K", "transition temperature", 273.15, 373.15),
                "w": QuantitySpecification("K", "width of the transition", positive=True),
                "T_hot": QuantitySpecification(
                    "K", "temperature at which k_hot is stated", 273.15, 373.15
                ),
            },
            {"k_hot": "krel_TSL_hot", "T_m": "T_m", "w": "w_T", "T_hot": "T_hot"},
            {"T_body": "T_body"},
            depends_on_temperature=True,
        ),
    )
}


@dataclass(frozen=True)
class ReleaseTrigger:
    """A release law of a carrier with the symbol of every parameter.

    Attributes:
        key: of the law in :data:`RELEASE_LAWS`.
        symbols: pairs of a parameter's name in the law and its symbol.
    """

    key: str
    symbols: tuple[tuple[str, str], ...]

    @property
    def law(self) -> ReleaseLaw:
        """The law."""
        return RELEASE_LAWS[self.key]


def release_trigger(key: str, **symbols: str) -> ReleaseTrigger:
    """A trigger by the key of its law.

    Args:
        key: of the law in :data:`RELEASE_LAWS`.
        symbols: of parameters by name; those of the table where none is given.
    """
    law = RELEASE_LAWS[key]
    return ReleaseTrigger(key, tuple({**law.default_symbols, **symbols, **law.constants}.items()))


def triggered_release_rate(
    trigger: ReleaseTrigger,
    conditions: ReleaseConditions,
    leak: Number,
    value_of: Callable[[str], Number],
) -> Tensor:
    """Release rate by one trigger, leak included, 1/s.

    Args:
        trigger: law and symbols of its parameters.
        conditions: pH and temperature.
        leak: rate of the untriggered carrier, 1/s.
        value_of: value of a parameter by its symbol, SI.
    """
    parameters = {name: value_of(symbol) for name, symbol in trigger.symbols}
    return trigger.law.rate(conditions, leak, parameters)


def combined_release_rate(k0: Number, *rates: Tensor) -> Number:
    """Release rate with several triggers, ``k0 + sum_j (k_j - k0)``, 1/s.

    Args:
        k0: leak, 1/s.
        rates: release rate by each trigger alone, leak included, 1/s.
    """
    return k0 + sum((k - k0 for k in rates), 0.0)


def single_pass_release_fraction(k: Number, tau: Number) -> Number:
    """Fraction of the drug released during one pass through a well-mixed vessel pool.

        k tau / (1 + k tau)

    Args:
        k: release rate, 1/s.
        tau: transit time of the pool, plasma volume over plasma flow, s.
    """
    return k * tau / (1 + k * tau)
