"""Parts of a carrier: how it circulates, what opens it, and what plasma then holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from nanopinn.parameters import value
from nanopinn.physics.plasma import PlasmaInput, SumOfExponentials
from nanopinn.physics.values import Values, scalar_lookup


@dataclass(frozen=True)
class Circulation:
    """Encapsulated drug in plasma per dose, ``1/V sum_i share_i exp(-k_i t)``; symbols of the table.

    The rates are the measured, total losses of encapsulated drug from plasma: uptake by organs and leakage
    together, so that the leak, which feeds free drug, is not subtracted again.

    Attributes:
        volume: V.
        rates: k_i.
        shares: of every phase but the last, which has the rest.
    """

    volume: str
    rates: tuple[str, ...]
    shares: tuple[str, ...] = ()

    def impulse_response(self, values: Values | None = None) -> SumOfExponentials:
        """Concentration per dose, 1/m3."""
        v = scalar_lookup(values)
        shares = [v(s) for s in self.shares]
        shares.append(1 - sum(shares))
        return SumOfExponentials(
            tuple(s / v(self.volume) for s in shares), tuple(v(k) for k in self.rates)
        )


@dataclass(frozen=True)
class AcidTrigger:
    """Symbols of :func:`acid_release_rate`."""

    k_ref: str = "krel_ref"
    pK: str = "pK_rel"
    n: str = "n_rel"
    pH_ref: str = "pH_ref"


@dataclass(frozen=True)
class HeatTrigger:
    """Symbols of :func:`heat_release_rate`."""

    k_hot: str = "krel_TSL_hot"
    T_m: str = "T_m"
    w: str = "w_T"
    T_hot: str = "T_hot"
    T_body: str = "T_body"


@dataclass(frozen=True)
class PlasmaDrug:
    """Drug in plasma, kg/m3.

    Attributes:
        encapsulated: in all carriers.
        free: unbound and albumin-bound together.
        releasable_share: of the carriers that release at all.
        fb: share of the free drug that albumin binds; the table's by default.
    """

    encapsulated: PlasmaInput
    free: PlasmaInput
    releasable_share: float = 1.0
    fb: float = field(default_factory=lambda: value("fb"))

    def releasable(self) -> PlasmaInput:
        """Encapsulated drug that can be released."""
        return self.encapsulated.scaled(self.releasable_share)

    def retained(self) -> PlasmaInput:
        """Encapsulated drug that never is."""
        return self.encapsulated.scaled(1 - self.releasable_share)

    def unbound(self) -> PlasmaInput:
        """What passes walls and membranes: ``(1 - fb)`` of the free drug."""
        return self.free.scaled(1 - self.fb)

    def bound(self) -> PlasmaInput:
        """What albumin carries: ``fb`` of the free drug; binding is fast beside everything else in plasma."""
        return self.free.scaled(self.fb)
