"""Plasma kinetics of a subject: circulation of carriers, free drug, and drug in plasma."""

from __future__ import annotations

from dataclasses import dataclass, field

from nanopinn.parameters import Values, scalar_lookup, value
from nanopinn.physics.plasma import PlasmaInput, SumOfExponentials


@dataclass(frozen=True)
class Circulation:
    """Encapsulated drug in plasma per dose, ``1/V sum_i share_i exp(-k_i t)``.

    The rates are measured total losses of encapsulated drug from plasma, which include the leak.

    Attributes:
        volume: symbol of V.
        rates: symbols of k_i.
        shares: symbols of the shares of every phase but the last, which has the rest.
        volume_per_kg: whether V is per body weight.
    """

    volume: str
    rates: tuple[str, ...]
    shares: tuple[str, ...] = ()
    volume_per_kg: bool = False

    def volume_m3(self, values: Values | None = None, weight_kg: float | None = None) -> float:
        """V of the subject, m3.

        Args:
            values: of parameters by symbol, in place of the table's.
            weight_kg: body weight of the subject, kg, for a volume per body weight.
        """
        V = scalar_lookup(values)(self.volume)
        if not self.volume_per_kg:
            return V
        assert weight_kg is not None
        return V * weight_kg

    def impulse_response(
        self, values: Values | None = None, weight_kg: float | None = None
    ) -> SumOfExponentials:
        """Concentration per dose, 1/m3.

        Args:
            values: of parameters by symbol, in place of the table's.
            weight_kg: body weight of the subject, kg, for a volume per body weight.
        """
        v, V = scalar_lookup(values), self.volume_m3(values, weight_kg)
        shares = [v(s) for s in self.shares]
        shares.append(1 - sum(shares))
        return SumOfExponentials(tuple(s / V for s in shares), tuple(v(k) for k in self.rates))


@dataclass(frozen=True)
class FreeDrugKinetics:
    """Plasma kinetics of the free drug: a sum of exponentials, by symbols of their parameters.

    Attributes:
        amplitudes: of every phase but the last, per dose; the last follows from the clearance.
        rates: of all phases; the last is the slowest.
        clearance: sets the area under the curve.
        per_kg: whether amplitudes are per dose over body weight, and clearance is per body weight.
    """

    amplitudes: tuple[str, ...]
    rates: tuple[str, ...]
    clearance: str
    per_kg: bool = False

    def symbols(self) -> tuple[str, ...]:
        """Symbols of all parameters."""
        return (*self.amplitudes, *self.rates, self.clearance)


HUMAN_FREE_DRUG = FreeDrugKinetics(
    ("A_dox", "B_dox"), ("alpha_dox", "beta_dox", "gamma_dox"), "CL_dox"
)


def free_drug_impulse_response(
    values: Values | None = None,
    kinetics: FreeDrugKinetics = HUMAN_FREE_DRUG,
    weight_kg: float | None = None,
) -> SumOfExponentials:
    """Impulse response of free doxorubicin in plasma, unbound and bound together, 1/m3.

        A_n = (1/CL - sum_{i<n} A_i/k_i) k_n

    The slowest of the amplitudes follows from the measured clearance, because it carries most of
    the area and was the least certain.

    Args:
        values: of parameters by symbol, in place of the table's.
        kinetics: of the species.
        weight_kg: body weight of the subject, kg, for kinetics per body weight.

    References:
        Robert 1982: A, B and their rates in humans. Gabizon 1994: CL in humans.
    """
    v = scalar_lookup(values)
    amplitudes = [v(s) for s in kinetics.amplitudes]
    rates = [v(s) for s in kinetics.rates]
    faster = sum(A / k for A, k in zip(amplitudes, rates[:-1], strict=True))
    amplitudes.append((1 / v(kinetics.clearance) - faster) * rates[-1])
    found = SumOfExponentials(tuple(amplitudes), tuple(rates))
    if not kinetics.per_kg:
        return found
    assert weight_kg is not None
    return found.scaled(1 / weight_kg)


@dataclass(frozen=True)
class PlasmaDrug:
    """Drug in plasma.

    Attributes:
        encapsulated: drug in all carriers, kg/m3.
        free: unbound and albumin-bound drug together, kg/m3.
        releasable_share: fraction of the carriers that release drug.
        fb: fraction of the free drug that albumin binds; the table's by default.
    """

    encapsulated: PlasmaInput
    free: PlasmaInput
    releasable_share: float = 1.0
    fb: float = field(default_factory=lambda: value("fb"))

    def releasable(self) -> PlasmaInput:
        """Encapsulated drug that can be released, kg/m3."""
        return self.encapsulated.scaled(self.releasable_share)

    def retained(self) -> PlasmaInput:
        """Encapsulated drug that is never released, kg/m3."""
        return self.encapsulated.scaled(1 - self.releasable_share)

    def unbound(self) -> PlasmaInput:
        """Unbound drug, which passes walls and membranes, ``(1 - fb)`` of the free drug, kg/m3."""
        return self.free.scaled(1 - self.fb)

    def bound(self) -> PlasmaInput:
        """Albumin-bound drug, ``fb`` of the free drug, kg/m3.

        Binding is fast compared with all other processes in plasma.
        """
        return self.free.scaled(self.fb)
