"""Formulations: circulation, leak, transport and release of a drug and its carrier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.parameters import (
    PARAMETERS,
    SCALARS,
    Number,
    Parameter,
    Values,
    parameter_lookup,
    scalar_lookup,
    value,
)
from nanopinn.physics.circulation import (
    HUMAN_FREE_DRUG,
    Circulation,
    FreeDrugKinetics,
    PlasmaDrug,
    free_drug_impulse_response,
)
from nanopinn.physics.plasma import Dose, DosedPlasmaCurve, SumOfExponentials
from nanopinn.physics.release import (
    ReleaseConditions,
    ReleaseTrigger,
    combined_release_rate,
    triggered_release_rate,
)
from nanopinn.physics.species import Subject, validate_carrier_volume

#: Symbols of the quantities of a carrier in the tumour model.
TISSUE_PARAMETER_SYMBOLS = {
    "permeability": "PS_l",
    "transmission": "leak_l",
    "retardation": "f_l",
    "diffusion": "D_l_t",
    "decay": "k_d_lip",
}


@dataclass(frozen=True)
class Formulation:
    """A formulation of the drug.

    Every quantity is the symbol of a parameter, in the parameter table or among the formulation's
    own parameters.

    Attributes:
        name: in schedules.
        description: in words.
        circulation: of the carrier in the subject; None for free drug.
        circulations: of the carrier by species; none where one circulation is that of the study's
            subject.
        free_drug: plasma kinetics of free drug in the subject.
        states_free_drug: whether the formulation's file states these kinetics, which then hold in
            place of those of the species.
        weight_kg: body weight of the subject, kg; None if unknown.
        leak: release rate of the untriggered carrier, in plasma and in tissue, 1/s.
        triggers: release laws with the symbols of their parameters; the excesses of several laws
            over the leak add.
        releasable_share: fraction of the carriers that release drug. The others never do. Two
            populations keep all equations linear, which a limit on the released fraction would not.
        permeability: of the tumour's vessel walls to the carrier, times S/V, 1/s.
        transmission: solvent-drag transmission (1 - sigma) of the tumour's vessel walls.
        retardation: velocity of the carrier over that of the fluid.
        diffusion: diffusivity of the carrier in the interstitium, m2/s.
        decay: decay rate of the carrier in the interstitium, 1/s.
        diameter: of the carrier, m. Permeability and diffusivity are stated for it; no equation
            uses it.
        aliases: other names.
        own_parameters: parameters that are not in the table.
        file: in which they are stated.

    Raises:
        InputError: the releasable share is not between 0 and 1.
    """

    name: str
    description: str
    circulation: Circulation | None = None
    circulations: tuple[tuple[str, Circulation], ...] = ()
    free_drug: FreeDrugKinetics = HUMAN_FREE_DRUG
    states_free_drug: bool = False
    weight_kg: float | None = None
    leak: str | None = None
    triggers: tuple[ReleaseTrigger, ...] = ()
    releasable_share: float = 1.0
    permeability: str | None = None
    transmission: str | None = None
    retardation: str | None = None
    diffusion: str | None = None
    decay: str | None = None
    diameter: str | None = None
    aliases: tuple[str, ...] = ()
    own_parameters: tuple[Parameter, ...] = ()
    file: Path | None = field(default=None, metadata={"saved": False})

    def __post_init__(self) -> None:
        if not 0 <= self.releasable_share <= 1:
            raise InputError(
                "the releasable share is not a fraction",
                field="releasable_share",
                found=self.releasable_share,
                expected="0 to 1",
            )

    def in_subject(self, subject: Subject, *, plasma_is_measured: bool = False) -> Formulation:
        """The formulation with the plasma kinetics of a subject.

        Args:
            subject: of the study.
            plasma_is_measured: allows a carrier without known kinetics in the species; its volume
                is the plasma volume, and measured curves replace those of its only loss, the leak.

        Raises:
            InputError: the kinetics of the carrier are not known in the species, or its volume of
                distribution is not possible in the subject.
        """
        species, circulation = subject.species, self.circulation
        if self.circulations:
            known = dict(self.circulations)
            if species.name not in known and plasma_is_measured and self.leak is not None:
                known[species.name] = Circulation(
                    species.plasma_volume, (self.leak,), volume_per_kg=True
                )
            if species.name not in known:
                raise InputError(
                    f"the plasma kinetics of {self.name} are not known in this species",
                    file=self.file,
                    field="species",
                    found=species.name,
                    expected=", ".join(known),
                    remedy="Measure them: give `plasma`, or describe the formulation in a file.",
                )
            circulation = known[species.name]
        if circulation is not None:
            volume = circulation.volume_m3(self.with_own_values(), subject.weight_kg)
            validate_carrier_volume(volume, subject, self.file)
        return replace(
            self,
            circulation=circulation,
            free_drug=self.free_drug if self.states_free_drug else species.free_drug,
            weight_kg=subject.weight_kg,
        )

    def as_fitted(self) -> tuple[Formulation, dict[str, Parameter], dict[str, Number]]:
        """The formulation with the scalars of the model in place of its own quantities in tissue.

        Returns:
            The formulation, its own parameters by the scalar for which they state the prior, and
            the values of its other quantities by the symbol of the model.
        """
        priors: dict[str, Parameter] = {}
        values: dict[str, Number] = dict(self.with_own_values())
        moved: dict[str, Any] = {}
        for quantity, symbol in TISSUE_PARAMETER_SYMBOLS.items():
            own = getattr(self, quantity)
            if own is None or own == symbol:
                continue
            if symbol in SCALARS:
                priors[symbol], moved[quantity] = self.parameter(own), symbol
            else:
                values[symbol] = self.parameter(own).value
        triggers = []
        for trigger in self.triggers:
            symbols = dict(trigger.symbols)
            for quantity, default in trigger.law.default_symbols.items():
                own = symbols[quantity]
                if default in SCALARS and own != default:
                    priors[default], symbols[quantity] = self.parameter(own), default
            triggers.append(replace(trigger, symbols=tuple(symbols.items())))
        return replace(self, triggers=tuple(triggers), **moved), priors, values

    @property
    def short_name(self) -> str:
        """First alias, or the name where there is none."""
        return self.aliases[0] if self.aliases else self.name

    def parameter(self, symbol: str) -> Parameter:
        """Parameter by its symbol: the formulation's own, else the table's."""
        return (
            next((p for p in self.own_parameters if p.symbol == symbol), None) or PARAMETERS[symbol]
        )

    def with_own_values(self, values: Values | None = None) -> Values:
        """Values of the formulation's own parameters, overridden by those given by symbol."""
        return {**{p.symbol: p.value for p in self.own_parameters}, **(values or {})}

    def tissue_parameters(
        self, scalars: Values, values: Values | None = None
    ) -> tuple[dict[str, Number], dict[str, Number]]:
        """Scalars of the tumour model and values of parameters for this carrier.

        Where the formulation names the model's own symbol, the value of the patient is kept.

        Args:
            scalars: of the model, by name.
            values: of parameters by symbol, in place of the table's.

        Returns:
            The scalars and the values with the quantities of the carrier.
        """
        known = self.with_own_values(values)
        named = {
            symbol: getattr(self, quantity) for quantity, symbol in TISSUE_PARAMETER_SYMBOLS.items()
        }
        moved = {
            symbol: parameter_lookup(known)(own)
            for symbol, own in named.items()
            if own is not None and own != symbol
        }
        of_model = {k: v for k, v in moved.items() if k in SCALARS}
        return {**scalars, **of_model}, {
            **known,
            **{k: v for k, v in moved.items() if k not in SCALARS},
        }

    def encapsulated_impulse_response(self, values: Values | None = None) -> SumOfExponentials:
        """Impulse response of encapsulated drug in plasma, 1/m3; zero for free drug.

        Args:
            values: of parameters by symbol, in place of the table's.
        """
        return (
            self.circulation.impulse_response(self.with_own_values(values), self.weight_kg)
            if self.circulation
            else SumOfExponentials((), ())
        )

    def free_impulse_response(self, values: Values | None = None) -> SumOfExponentials:
        """Impulse response of free drug in plasma, 1/m3.

        Free drug is injected as such, or leaks from carriers, :meth:`leak_response`.

        Args:
            values: of parameters by symbol, in place of the table's.
        """
        if self.circulation is None or self.leak is None:
            own = self.with_own_values(values)
            return free_drug_impulse_response(own, self.free_drug, self.weight_kg)
        carrier = self.encapsulated_impulse_response(values)
        return carrier.convolved(self.leak_response(carrier.area(), values))

    def leak_response(
        self, area_per_dose: float, values: Values | None = None
    ) -> SumOfExponentials:
        """Free drug in plasma per concentration of the carrier and time, ``share k_leak V g``, 1/s.

        The leak is limited to the total elimination of the carrier, whatever values are drawn for
        both.

        Args:
            area_per_dose: area under the carrier's curve over its dose, s/m3.
            values: of parameters by symbol, in place of the table's.
        """
        if self.circulation is None or self.leak is None:
            return SumOfExponentials((), ())
        own = self.with_own_values(values)
        free = free_drug_impulse_response(own, self.free_drug, self.weight_kg)
        volume = self.circulation.volume_m3(own, self.weight_kg)
        leaking = min(scalar_lookup(own)(self.leak) * volume, 1 / area_per_dose)
        return free.scaled(self.releasable_share * leaking)

    def leaked_fraction(self) -> float:
        """Fraction of the drug that leaks from releasable carriers before these leave plasma.

        The largest one where the plasma curve is stated by species.
        """
        if self.circulation is None or self.leak is None:
            return 0.0
        own, weight = self.with_own_values(), self.weight_kg or 1.0  # the weight cancels
        return scalar_lookup(own)(self.leak) * max(
            c.volume_m3(own, weight) * c.impulse_response(own, weight).area()
            for c in (self.circulation, *(c for _, c in self.circulations))
        )

    def plasma(self, doses: Sequence[Dose], values: Values | None = None) -> PlasmaDrug:
        """Drug in plasma after a series of doses.

        Triggered release in heated vessels is not part of it; the pools of the microvessels have
        it.

        Args:
            doses: in any order.
            values: of parameters by symbol, in place of the table's.
        """
        given = tuple(doses)
        encapsulated, free = (
            DosedPlasmaCurve(g, given)
            for g in (
                self.encapsulated_impulse_response(values),
                self.free_impulse_response(values),
            )
        )
        return PlasmaDrug(encapsulated, free, self.releasable_share, scalar_lookup(values)("fb"))

    @property
    def responds_to_acid(self) -> bool:
        """Whether the release rate depends on pH."""
        return any(t.law.depends_on_pH for t in self.triggers)

    @property
    def responds_to_heat(self) -> bool:
        """Whether the release rate depends on temperature."""
        return any(t.law.depends_on_temperature for t in self.triggers)

    def release_rate(
        self,
        pH: Tensor,
        T_K: Tensor,
        values: Values | None = None,
        *,
        ph_warp: Tensor | None = None,
    ) -> Tensor:
        """Release rate of the releasable carriers in tissue, 1/s.

            k_rel = k_leak + sum over triggers of (k_j(pH, T) - k_leak)

        Args:
            pH: extracellular pH.
            T_K: temperature, K, of a shape that broadcasts with ``pH``.
            values: of parameters by symbol, in place of the table's (a fit moves some).
            ph_warp: weights of the monotone warp of pH, ``(5,)``; no warp if None.

        Raises:
            ValueError: the formulation has no carrier.
        """
        if self.leak is None:
            raise ValueError(f"{self.name} has no carrier to release from")
        value_of = parameter_lookup(self.with_own_values(values))
        leak = value_of(self.leak)
        conditions = ReleaseConditions(pH, T_K, ph_warp)
        rates = [triggered_release_rate(t, conditions, leak, value_of) for t in self.triggers]
        return torch.zeros_like(pH + T_K) + combined_release_rate(leak, *rates)

    def heat_release_excess(self, T_K: Tensor, values: Values | None = None) -> Tensor:
        """Release rate above the leak that heat adds, in tissue and in microvessels, 1/s.

        Args:
            T_K: temperature, K.
            values: of parameters by symbol, in place of the table's.

        Returns:
            Zero where no trigger depends on temperature.
        """
        if self.leak is None or not self.responds_to_heat:
            return torch.zeros_like(T_K)
        value_of = parameter_lookup(self.with_own_values(values))
        leak = value_of(self.leak)
        # blood is as little acid as normal tissue
        conditions = ReleaseConditions(torch.full_like(T_K, value("pHe_n")), T_K)
        excesses = [
            triggered_release_rate(t, conditions, leak, value_of) - leak
            for t in self.triggers
            if t.law.depends_on_temperature
        ]
        return sum(excesses[1:], excesses[0])

    def symbols(self) -> tuple[str, ...]:
        """Symbols of every parameter on which outcomes depend, those of free drug included."""
        found: list[str] = []
        if self.circulation:
            found += [self.circulation.volume, *self.circulation.rates, *self.circulation.shares]
        for trigger in self.triggers:
            found += [symbol for _, symbol in trigger.symbols]
        found += [
            s
            for s in (
                self.leak,
                *(getattr(self, quantity) for quantity in TISSUE_PARAMETER_SYMBOLS),
            )
            if s
        ]
        return (*found, "fb", *self.free_drug.symbols())

    def plasma_symbols(self) -> tuple[str, ...]:
        """Symbols of the parameters on which the curves in plasma depend."""
        carrier: list[str] = []
        if self.circulation is not None and self.leak is not None:
            c = self.circulation
            carrier = [c.volume, *c.rates, *c.shares, self.leak]
        return (*carrier, "fb", *self.free_drug.symbols())

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.description}"]
        if self.circulation:
            lines.append(f"  carriers that release: {self.releasable_share:.0%}")
        return "\n".join(
            [
                *lines,
                *(
                    self._format_parameter_line(s)
                    for s in (*self.symbols(), *((self.diameter,) if self.diameter else ()))
                ),
            ]
        )

    def _format_parameter_line(self, symbol: str) -> str:
        p = self.parameter(symbol)
        unit = "" if p.unit == "1" else f" {p.unit}"
        status = (
            f"stated in {self.file.name if self.file else 'a file'}"
            if p in self.own_parameters
            else p.source_status
        )
        interval = "" if None in (p.low, p.high) else f", 95 % {p.low:g} to {p.high:g}"
        prior = f", prior {p.prior.kind}({p.prior.sd:g})" if p.prior else interval
        return f"  {symbol} = {p.value:g}{unit}{prior}: {p.name} [{status}: {p.source}]"
