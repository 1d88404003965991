"""What the drug is given in: how each formulation circulates, leaks and releases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.parameters import PARAMETERS, value
from nanopinn.physics.plasma import Dose, DosedCurve, PlasmaInput, SumOfExponentials, free_drug_impulse
from nanopinn.physics.release import acid_release_rate, heat_release_rate, sum_of_excesses
from nanopinn.physics.values import Values, lookup, numbers


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

    def impulse(self, values: Values | None = None) -> SumOfExponentials:
        """Concentration per dose, 1/m3."""
        v = numbers(values)
        shares = [v(s) for s in self.shares]
        shares.append(1 - sum(shares))
        return SumOfExponentials(tuple(s / v(self.volume) for s in shares), tuple(v(k) for k in self.rates))


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


@dataclass(frozen=True)
class Formulation:
    """A way to give the drug; every number is named by its symbol in the parameter table.

    Attributes:
        name: as schedules call it.
        description: in words.
        circulation: of the carrier; None for drug that is given free.
        leak: of the untriggered carrier, in plasma and in tissue, 1/s.
        acid: release law of pH, if acid triggers it.
        heat: release law of temperature, if heat triggers it; with both, their excesses over the leak add.
        releasable_share: of the carriers that release at all. The others never do: two populations keep
            every equation linear where a ceiling on the released fraction would not.
        permeability: of the tumour's walls for the carrier, times S/V, 1/s.
        transmission: 1 - sigma of the tumour's walls for the carrier.

    Raises:
        InputError: the share is not one.
    """

    name: str
    description: str
    circulation: Circulation | None = None
    leak: str | None = None
    acid: AcidTrigger | None = None
    heat: HeatTrigger | None = None
    releasable_share: float = 1.0
    permeability: str | None = None
    transmission: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.releasable_share <= 1:
            raise InputError(
                "the share of carriers that release is no share", field="releasable_share", found=self.releasable_share, expected="0 to 1"
            )

    def encapsulated_impulse(self, values: Values | None = None) -> SumOfExponentials:
        """Encapsulated drug in plasma per dose, 1/m3; nothing for free drug."""
        return self.circulation.impulse(values) if self.circulation else SumOfExponentials((), ())

    def free_impulse(self, values: Values | None = None) -> SumOfExponentials:
        """Free drug in plasma per dose, 1/m3: of the injected drug, or leaked, ``(share k_leak V C_l) * g``."""
        if self.circulation is None or self.leak is None:
            return free_drug_impulse(values)
        v = numbers(values)
        leaking = self.releasable_share * v(self.leak) * v(self.circulation.volume)
        return self.encapsulated_impulse(values).scaled(leaking).convolved(free_drug_impulse(values))

    def plasma(self, doses: Sequence[Dose], values: Values | None = None) -> PlasmaDrug:
        """Drug in plasma after any series of doses; before triggered release in heated vessels, which is the tissue's.

        Args:
            values: of parameters by symbol, in place of the table's.
        """
        given = tuple(doses)
        encapsulated, free = (DosedCurve(g, given) for g in (self.encapsulated_impulse(values), self.free_impulse(values)))
        return PlasmaDrug(encapsulated, free, self.releasable_share, numbers(values)("fb"))

    def bolus(self, dose_kg: float | None = None) -> tuple[SumOfExponentials, SumOfExponentials]:
        """Encapsulated and unbound free drug in plasma after one bolus at 0 (the table's dose if None), kg/m3."""
        dose = value("Dose") if dose_kg is None else dose_kg
        return self.encapsulated_impulse().scaled(dose), self.free_impulse().scaled(dose * (1 - value("fb")))

    def release_rate(self, pH: Tensor, T_K: Tensor, values: Values | None = None) -> Tensor:
        """Release rate of the releasing carriers in tissue, 1/s.

        Args:
            pH: extracellular pH.
            T_K: temperature, K, of a shape that fits ``pH``'s.
            values: of parameters by symbol, in place of the table's (an inference moves some).

        Raises:
            ValueError: free drug has no carrier.
        """
        if self.leak is None:
            raise ValueError(f"{self.name} has no carrier to release from")
        v = lookup(values)
        k0 = v(self.leak)
        rates = []
        if self.acid:
            a = self.acid
            rates.append(acid_release_rate(pH, v(a.k_ref), k0, v(a.pK), v(a.n), v(a.pH_ref)))
        if self.heat:
            rates.append(k0 + self.heat_excess(T_K, values))
        return torch.zeros_like(pH + T_K) + sum_of_excesses(k0, *rates)

    def heat_excess(self, T_K: Tensor, values: Values | None = None) -> Tensor:
        """What heat adds to the release rate, in tissue and in microvessels, 1/s; nothing for carriers that heat does not open."""
        if self.heat is None or self.leak is None:
            return torch.zeros_like(T_K)
        v = lookup(values)
        h, k0 = self.heat, v(self.leak)
        return heat_release_rate(T_K, v(h.k_hot), k0, v(h.T_m), v(h.w), v(h.T_hot), v(h.T_body)) - k0

    def symbols(self) -> tuple[str, ...]:
        """Every parameter it rests on, free drug's included."""
        own: list[str] = []
        if self.circulation:
            own += [self.circulation.volume, *self.circulation.rates, *self.circulation.shares]
        for part in (self.acid, self.heat):
            own += [str(getattr(part, f.name)) for f in fields(part)] if part else []
        own += [s for s in (self.leak, self.permeability, self.transmission) if s]
        return (*own, "fb", "CL_dox", "A_dox", "alpha_dox", "B_dox", "beta_dox", "gamma_dox")

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.description}"]
        if self.circulation:
            lines.append(f"  carriers that release: {self.releasable_share:.0%}")
        for symbol in self.symbols():
            p = PARAMETERS[symbol]
            unit = "" if p.unit == "1" else f" {p.unit}"
            lines.append(f"  {symbol} = {p.value:g}{unit}: {p.name} [{p.standing}: {p.source}]")
        return "\n".join(lines)


_STEALTH = Circulation(volume="V_PLD", rates=("k_PLD_1", "k_PLD"), shares=("f_PLD_1",))
_LYSOLIPID = Circulation(volume="V_TSL", rates=("k_TSL",))

FREE = Formulation("free", "doxorubicin as such")
PEGYLATED = Formulation(
    "pegylated", "PEGylated liposome (PLD), not triggered",
    _STEALTH, leak="krel_PLD", permeability="PS_l", transmission="leak_l",
)  # fmt: skip
PH_SENSITIVE = Formulation(
    "pH-sensitive", "PEGylated liposome that acid opens; it circulates as PLD does (an assumption)",
    _STEALTH, leak="krel0_pH", acid=AcidTrigger(), permeability="PS_l", transmission="leak_l",
)  # fmt: skip
THERMOSENSITIVE = Formulation(
    "thermosensitive", "lysolipid thermosensitive liposome (LTSL)",
    _LYSOLIPID, leak="krel_TSL_37", heat=HeatTrigger(), permeability="PS_l", transmission="leak_l",
)  # fmt: skip

#: By the name that schedules use.
FORMULATIONS = {f.name: f for f in (FREE, PEGYLATED, PH_SENSITIVE, THERMOSENSITIVE)}
