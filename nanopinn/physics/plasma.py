"""Plasma pharmacokinetics as sums of exponentials, convolved in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nanopinn.parameters import value


@dataclass(frozen=True)
class SumOfExponentials:
    """``C(t) = sum_i A_i exp(-k_i t)`` for t >= 0, zero before; amplitudes in kg/m3, rates in 1/s."""

    amplitudes: tuple[float, ...]
    rates: tuple[float, ...]

    def __call__(self, t: Tensor) -> Tensor:
        A, k = (torch.tensor(v, dtype=t.dtype, device=t.device) for v in (self.amplitudes, self.rates))
        curve = (A * torch.exp(-k * t.clamp_min(0.0)[..., None])).sum(-1)
        return torch.where(t >= 0, curve, torch.zeros_like(curve))

    def integral(self, t: Tensor) -> Tensor:
        """Area up to t, kg s/m3."""
        A, k = (torch.tensor(v, dtype=t.dtype, device=t.device) for v in (self.amplitudes, self.rates))
        return -(A / k * torch.expm1(-k * t.clamp_min(0.0)[..., None])).sum(-1)

    def scaled(self, factor: float) -> SumOfExponentials:
        """The same curve times ``factor``."""
        return SumOfExponentials(tuple(factor * a for a in self.amplitudes), self.rates)

    def convolved(self, other: SumOfExponentials) -> SumOfExponentials:
        """``integral_0^t self(s) other(t - s) ds``, again a sum of exponentials.

        Raises:
            ValueError: the two share a rate (the result would hold a term t exp(-k t)).
        """
        terms: dict[float, float] = {}
        for a, k in zip(self.amplitudes, self.rates, strict=True):
            for b, m in zip(other.amplitudes, other.rates, strict=True):
                if abs(k - m) <= 1e-9 * max(abs(k), abs(m)):
                    raise ValueError("convolution of exponentials with equal rates")
                terms[k] = terms.get(k, 0.0) + a * b / (m - k)
                terms[m] = terms.get(m, 0.0) - a * b / (m - k)
        return SumOfExponentials(tuple(terms.values()), tuple(terms))

    def area(self) -> float:
        """Integral from 0 to infinity, kg s/m3."""
        return sum(a / k for a, k in zip(self.amplitudes, self.rates, strict=True))


def pegylated_liposome(dose_kg: float | None = None) -> SumOfExponentials:
    """Encapsulated drug in plasma after a bolus of a PEGylated liposome, kg/m3.

    Two phases, half-lives 2 h and 45.9 h (Gabizon 1994), the shares of which are a prior.
    """
    dose = value("Dose") if dose_kg is None else dose_kg
    share = value("f_PLD_1")
    peak = dose / value("V_PLD")
    return SumOfExponentials((share * peak, (1 - share) * peak), (value("k_PLD_1"), value("k_PLD")))


def free_drug_impulse() -> SumOfExponentials:
    """Free doxorubicin in plasma per kg injected, kg/m3 per kg (three compartments, Robert 1982)."""
    return SumOfExponentials(
        (value("A_dox"), value("B_dox"), value("C_dox")),
        (value("alpha_dox"), value("beta_dox"), value("gamma_dox")),
    )


def leaked_free_drug(encapsulated: SumOfExponentials, k_leak: float) -> SumOfExponentials:
    """Unbound free drug in plasma that leaks from circulating carriers, kg/m3.

    ``C_f = (1 - fb) (k_leak V C_l) * g`` with ``g`` the impulse response of free drug and ``*`` a convolution.
    """
    released = encapsulated.scaled(k_leak * value("V_PLD"))
    return released.convolved(free_drug_impulse()).scaled(1 - value("fb"))
