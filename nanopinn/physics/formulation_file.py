"""Formulation files: the parser of their entries.

Each quantity is the symbol of a row of the parameter table, or a value with unit and source::

    leak = "krel_PLD"
    leak = {value = 2e-6, unit = "1/s", prior = "lognormal(0.7)", source = "where it was measured"}

Units are those of the table (SI). Another unit is refused, not converted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanopinn.errors import InputError
from nanopinn.io.safe_open import is_number
from nanopinn.parameters import PARAMETERS, Parameter, QuantitySpecification, parse_parameter_row
from nanopinn.physics.circulation import HUMAN_FREE_DRUG, Circulation, FreeDrugKinetics
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.release import RELEASE_LAWS, ReleaseLaw, ReleaseTrigger, release_trigger
from nanopinn.physics.species import SPECIES

#: Quantities that every carrier's file states.
CARRIER = {
    "diameter": QuantitySpecification("m", "diameter of the carrier", 1e-9, 1e-5),
    "leak": QuantitySpecification(
        "1/s", "release rate of the untriggered carrier, in plasma and in tissue"
    ),
    "permeability": QuantitySpecification(
        "1/s", "permeability of the tumour's walls for the carrier, times S/V"
    ),
    "transmission": QuantitySpecification(
        "1", "1 - reflection coefficient of the tumour's walls for the carrier", high=1.0
    ),
    "retardation": QuantitySpecification(
        "1", "velocity of the carrier over that of the interstitial fluid", high=1.0
    ),
    "diffusion": QuantitySpecification(
        "m**2/s", "diffusion coefficient of the carrier in the interstitium"
    ),
    "decay": QuantitySpecification("1/s", "decay of the carrier in the interstitium"),
}
VOLUME = QuantitySpecification("m**3", "volume of distribution of the carrier", positive=True)
VOLUME_PER_KG = QuantitySpecification(
    "m**3/kg", "volume of distribution of the carrier over body weight", positive=True
)
RATE = QuantitySpecification(
    "1/s", "rate of a phase at which the carrier leaves plasma, leak included", positive=True
)
SHARE = QuantitySpecification(
    "1", "share of the dose in a phase of the carrier's plasma curve", high=1.0
)
CLEARANCE = QuantitySpecification("m**3/s", "plasma clearance of free drug", positive=True)
CLEARANCE_PER_KG = QuantitySpecification(
    "m**3/(s*kg)", "plasma clearance of free drug over body weight", positive=True
)
AMPLITUDE = QuantitySpecification("1/m**3", "amplitude of a phase of free drug in plasma per dose")
AMPLITUDE_PER_KG = QuantitySpecification(
    "kg/m**3", "amplitude of a phase of free drug in plasma per dose over body weight"
)
FREE_DRUG_RATE = QuantitySpecification(
    "1/s", "rate of a phase of free drug in plasma", positive=True
)
GENERAL_KEYS = ("name", "aliases", "description", "releasable_share", "circulation", "free_drug")
NAME = re.compile(r"\w[\w .+-]{0,63}")
_MAX_TEXT_LENGTH, _MAX_ALIASES = 500, 10
#: Largest number of phases of a plasma curve.
MAX_PHASES = 8
OWN_PARAMETER_KEYS = ("value", "unit", "source", "prior", "low", "high")
REMEDY = "See docs/formulations for an example."


def parse_formulation(entries: Mapping[str, Any], path: str | Path) -> Formulation:
    """Parse the entries of a formulation file.

    Args:
        entries: of the file, by key.
        path: that errors name.

    Raises:
        InputError: an entry is missing, unknown or of the wrong type, a symbol is not in the table,
            a unit is not that of the quantity, a value is out of range, the leak rate exceeds the
            total elimination, or the phases of free drug do not fit its clearance.
    """
    file = _FormulationReader(path, entries)
    name, description = file.validate_name("name", file.text("name")), file.text("description")
    free_drug = file.free_drug()
    if not {"circulation", "releasable_share", *RELEASE_LAWS, *CARRIER} & set(entries):
        return Formulation(
            name,
            description,
            free_drug=free_drug or HUMAN_FREE_DRUG,
            states_free_drug=free_drug is not None,
            aliases=file.aliases(),
            own_parameters=tuple(file.own_parameters),
        )
    quantities: dict[str, Any] = {
        quantity: file.symbol(quantity, file.entry(quantity), what)
        for quantity, what in CARRIER.items()
    }
    circulation, by_species = file.circulations()
    found = Formulation(
        name,
        description,
        circulation,
        by_species,
        free_drug=free_drug or HUMAN_FREE_DRUG,
        states_free_drug=free_drug is not None,
        triggers=file.triggers(),
        releasable_share=file.share(),
        aliases=file.aliases(),
        **quantities,
        own_parameters=tuple(file.own_parameters),
    )
    if not (leaked := found.leaked_fraction()) <= 1:
        raise InputError(
            "the leak rate exceeds the total elimination of the carrier",
            file=path,
            field="leak",
            found=f"{leaked:.3g} times its dose",
            expected="at most the dose",
            remedy="Give rates of the circulation that include the leak.",
        )
    return found


class _FormulationReader:
    """Entries of one file, and the parameters that they define."""

    def __init__(self, path: str | Path, entries: Mapping[str, Any]) -> None:
        self.path, self.entries, self.own_parameters = path, entries, list[Parameter]()
        self._check_keys(entries, (*GENERAL_KEYS, *RELEASE_LAWS, *CARRIER), "")

    def _check_keys(self, entries: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
        for key in entries:
            if key not in known:
                remedy = (
                    "Give `transmission`, which is 1 - the reflection coefficient."
                    if key == "reflection"
                    else REMEDY
                )
                raise self.input_error(
                    "an entry is unknown", f"{where}{key}", entries[key], ", ".join(known), remedy
                )

    def input_error(
        self, problem: str, field: str, found: object, expected: str, remedy: str = REMEDY
    ) -> InputError:
        """The error that names the file and an entry of it."""
        return InputError(
            f"{problem} in the formulation",
            file=self.path,
            field=field,
            found=found,
            expected=expected,
            remedy=remedy,
        )

    def type_error(self, field: str, found: object, expected: str) -> InputError:
        """The error of an entry of the wrong type."""
        return self.input_error("an entry has the wrong type", field, found, expected)

    def _require(
        self, field: str, found: Mapping[str, Any], wanted: Mapping[str, QuantitySpecification]
    ) -> None:
        for key, what in wanted.items():
            if key not in found:
                raise self.input_error(
                    "a quantity is missing", f"{field}.{key}", None, what.meaning
                )

    def entry(self, key: str) -> Any:
        """An entry that must be there."""
        if key not in self.entries:
            raise self.input_error(
                "a quantity is missing",
                key,
                None,
                "a symbol of the parameter table, or {value, unit, source}",
            )
        return self.entries[key]

    def table(self, key: str, known: tuple[str, ...]) -> Mapping[str, Any]:
        """An entry that must be a table with known keys."""
        found = self.entry(key)
        if not isinstance(found, dict):
            raise self.type_error(key, found, f"a table [{key}]")
        self._check_keys(found, known, f"{key}.")
        return found

    def text(self, key: str) -> str:
        """An entry that must be one line of text."""
        found = self.entry(key)
        if (
            not isinstance(found, str)
            or not found.strip()
            or not found.strip().isprintable()
            or len(found) > _MAX_TEXT_LENGTH
        ):
            expected = f"a text on one line, of at most {_MAX_TEXT_LENGTH} characters"
            raise self.type_error(key, found, expected)
        return found.strip()

    def aliases(self) -> tuple[str, ...]:
        """Other names of the formulation."""
        found = self.entries.get("aliases", [])
        if (
            not isinstance(found, list)
            or not all(isinstance(a, str) for a in found)
            or len(found) > _MAX_ALIASES
        ):
            raise self.type_error("aliases", found, f"a list of at most {_MAX_ALIASES} texts")
        return tuple(self.validate_name("aliases", a) for a in found)

    def validate_name(self, key: str, found: str) -> str:
        """Check a name, which is also that of the folder with the results of an arm."""
        if not NAME.fullmatch(found):
            raise self.input_error(
                "a name cannot be used",
                key,
                found,
                "letters, digits, spaces and - _ + . after a letter or digit",
            )
        return found

    def share(self) -> float:
        """The releasable share, 1 by default."""
        found = self.entries.get("releasable_share", 1.0)
        if not is_number(found) or not 0 <= found <= 1:
            raise self.input_error(
                "the releasable share is not a fraction",
                "releasable_share",
                found,
                "0 to 1",
            )
        return float(found)

    def circulations(self) -> tuple[Circulation, tuple[tuple[str, Circulation], ...]]:
        """Plasma curve of the carrier, and those by species where the file states them so.

        ``[circulation]`` is that of the study's subject. ``[circulation.mouse]`` is that of a
        species, whose volume may be per body weight; the first one stands until the subject is
        known.
        """
        stated = self.entry("circulation")
        if not isinstance(stated, dict) or not set(stated) & set(SPECIES):
            return self._circulation("circulation", stated), ()
        self._check_keys(stated, tuple(SPECIES), "circulation.")
        by_species = tuple(
            (name, self._circulation(f"circulation.{name}", entry))
            for name, entry in stated.items()
        )
        return by_species[0][1], by_species

    def _circulation(self, field: str, stated: Any) -> Circulation:
        """Symbols of one plasma curve of the carrier."""
        if not isinstance(stated, dict):
            raise self.type_error(field, stated, f"a table [{field}]")
        self._check_keys(stated, ("volume", "rates", "shares"), f"{field}.")
        found = {"shares": [], **stated}
        self._require(field, found, {"volume": VOLUME, "rates": RATE})
        per_kg = self._unit_of(found["volume"]) == VOLUME_PER_KG.unit
        volume = self.symbol(
            f"{field}.volume", found["volume"], VOLUME_PER_KG if per_kg else VOLUME
        )
        rates, shares = (
            self._parse_symbol_list(f"{field}.rates", found["rates"], RATE),
            self._parse_symbol_list(f"{field}.shares", found["shares"], SHARE),
        )
        total = sum(self._parameter_value(s) for s in shares)
        if len(shares) != len(rates) - 1 or total > 1:
            problem = "the shares of the plasma curve do not fit its rates"
            stated_shares = f"{len(shares)} shares with a sum of {total:g} for {len(rates)} rates"
            raise self.input_error(
                problem,
                f"{field}.shares",
                stated_shares,
                "one less than rates, with a sum of at most 1; the last phase has the rest",
            )
        return Circulation(volume, rates, shares, per_kg)

    def free_drug(self) -> FreeDrugKinetics | None:
        """Plasma kinetics of free drug, or None where those of the species hold."""
        if "free_drug" not in self.entries:
            return None
        found = {
            "amplitudes": [],
            **self.table("free_drug", ("clearance", "amplitudes", "rates")),
        }
        self._require("free_drug", found, {"clearance": CLEARANCE, "rates": FREE_DRUG_RATE})
        per_kg = self._unit_of(found["clearance"]) == CLEARANCE_PER_KG.unit
        clearance = self.symbol(
            "free_drug.clearance", found["clearance"], CLEARANCE_PER_KG if per_kg else CLEARANCE
        )
        rates = self._parse_symbol_list("free_drug.rates", found["rates"], FREE_DRUG_RATE)
        amplitudes = self._parse_symbol_list(
            "free_drug.amplitudes",
            found["amplitudes"],
            AMPLITUDE_PER_KG if per_kg else AMPLITUDE,
        )
        if len(amplitudes) != len(rates) - 1:
            raise self.input_error(
                "the amplitudes of free drug do not fit its rates",
                "free_drug.amplitudes",
                f"{len(amplitudes)} amplitudes for {len(rates)} rates",
                "one less than rates; the last phase follows from the clearance",
            )
        area = sum(
            self._parameter_value(A) / self._parameter_value(k)
            for A, k in zip(amplitudes, rates[:-1], strict=True)
        ) * self._parameter_value(clearance)
        if area > 1:
            raise self.input_error(
                "the phases of free drug have more area than its clearance allows",
                "free_drug.amplitudes",
                f"{area:.3g} of the dose over the clearance",
                "at most 1, the sum of amplitude / rate times the clearance",
            )
        return FreeDrugKinetics(amplitudes, rates, clearance, per_kg)

    def _unit_of(self, entry: Any) -> str | None:
        """Unit of an entry, or None where it cannot be read; errors follow where it is parsed."""
        if isinstance(entry, str):
            return PARAMETERS[entry].unit if entry in PARAMETERS else None
        return entry.get("unit") if isinstance(entry, dict) else None

    def _parse_symbol_list(
        self, key: str, found: Any, what: QuantitySpecification
    ) -> tuple[str, ...]:
        if not isinstance(found, list) or len(found) > MAX_PHASES:
            raise self.type_error(key, found, f"a list of at most {MAX_PHASES}")
        return tuple(self.symbol(f"{key}.{i + 1}", entry, what) for i, entry in enumerate(found))

    def triggers(self) -> tuple[ReleaseTrigger, ...]:
        """The release laws that have a table in the file."""
        return tuple(self._trigger(law) for law in RELEASE_LAWS.values() if law.key in self.entries)

    def _trigger(self, law: ReleaseLaw) -> ReleaseTrigger:
        found = self.table(law.key, tuple(law.quantities))
        self._require(law.key, found, law.quantities)
        return release_trigger(
            law.key,
            **{
                quantity: self.symbol(f"{law.key}.{quantity}", found[quantity], what)
                for quantity, what in law.quantities.items()
            },
        )

    def symbol(self, field: str, entry: Any, what: QuantitySpecification) -> str:
        """The symbol of the parameter that holds a quantity."""
        if isinstance(entry, str):
            return self._check_table_symbol(field, entry, what)
        if isinstance(entry, dict):
            return self._add_own_parameter(field, entry, what)
        example = (
            f'{field.split(".")[-1]} = {{value = {entry}, unit = "{what.unit}", source = "..."}}'
        )
        raise self.input_error(
            "a quantity needs its unit and source",
            field,
            entry,
            "a symbol of the table, or a table",
            f"Write {example}.",
        )

    def _check_table_symbol(self, field: str, symbol: str, what: QuantitySpecification) -> str:
        if symbol not in PARAMETERS:
            raise self.input_error(
                "a symbol is not in the parameter table",
                field,
                symbol,
                "a symbol, or {value, unit, source}",
            )
        if (unit := PARAMETERS[symbol].unit) != what.unit:
            raise self.input_error(
                "a parameter has another unit than the quantity",
                field,
                f"{symbol} in {unit}",
                what.unit,
            )
        return symbol

    def _add_own_parameter(
        self, field: str, entry: Mapping[str, Any], what: QuantitySpecification
    ) -> str:
        self._check_keys(entry, OWN_PARAMETER_KEYS, f"{field}.")
        for key in ("value", "unit", "source"):
            if key not in entry:
                raise self.input_error(
                    "a quantity lacks an entry", f"{field}.{key}", None, "value, unit and source"
                )
        for key in ("source", "prior"):
            if key in entry and not (
                isinstance(entry[key], str)
                and entry[key].isprintable()
                and len(entry[key]) <= _MAX_TEXT_LENGTH
            ):
                raise self.type_error(f"{field}.{key}", entry[key], "a text on one line")
        numbers = {key: entry[key] for key in ("value", "low", "high") if key in entry}
        for key, number in numbers.items():
            if not is_number(number) or not what.accepts(number):
                low = "above 0" if what.positive else f"{what.low:g}"
                raise self.input_error(
                    "a number cannot be used",
                    f"{field}.{key}",
                    number,
                    f"{low} to {what.high:g} {what.unit} ({what.meaning})",
                )
        if entry["unit"] != what.unit:
            raise self.input_error(
                "a unit is not that of the quantity",
                f"{field}.unit",
                entry["unit"],
                what.unit,
                "Convert the number.",
            )
        row = {
            **{
                key: repr(float(numbers[key])) if key in numbers else ""
                for key in ("value", "low", "high")
            },
            "symbol": f"{self.text('name')}.{field}",
            "name": what.meaning,
            "unit": what.unit,
            "prior": entry.get("prior", ""),
            "tissue": self.text("name"),
            "source": entry["source"],
            "verified": "memory",
        }
        self.own_parameters.append(parse_parameter_row(row, str(self.path)))
        return row["symbol"]

    def _parameter_value(self, symbol: str) -> float:
        return (
            {p.symbol: p.value for p in self.own_parameters}[symbol]
            if symbol not in PARAMETERS
            else PARAMETERS[symbol].value
        )
