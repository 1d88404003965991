"""The parameter table and its only loader.

How uncertain a parameter of the table is: what it is drawn from where nothing better is known of
it.

Values of parameters by symbol, where they differ from the table's: a draw from their priors, or a
user's own carrier.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.errors import InputError

COLUMNS = (
    "symbol",
    "name",
    "value",
    "low",
    "high",
    "unit",
    "prior",
    "tissue",
    "source",
    "verified",
)
_PRIOR = re.compile(r"(lognormal|normal)\((\+?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\)")


@dataclass(frozen=True)
class Prior:
    """What is believed of a parameter before the data: normal in the value or in its logarithm.

    ``sd`` is in the unit of the parameter for ``normal`` and in natural-log units for
    ``lognormal``.
    """

    kind: Literal["normal", "lognormal"]
    sd: float


@dataclass(frozen=True)
class Parameter:
    """One row of the table; ``value``, ``low`` and ``high`` are in ``unit`` (SI)."""

    symbol: str
    name: str
    value: float
    low: float | None
    high: float | None
    unit: str
    prior: Prior | None
    tissue: str
    source: str
    verified: bool

    @property
    def source_status(self) -> str:
        """Whether the number was read in its source or is only a prior from memory."""
        return "verified in its source" if self.verified else "prior from memory of the literature"

    def distribution(self) -> ParameterDistribution | None:
        """What it is drawn from (:func:`nanopinn.parameters.table.parameter_distribution`); None
        where the row says nothing of its uncertainty.
        """

        return parameter_distribution(self)


def load_table(path: Path | None = None) -> dict[str, Parameter]:
    """Read and validate a parameter table.

    Args:
        path: a CSV file with the columns of the packaged table; the packaged table if None.

    Returns:
        The parameters by symbol.

    Raises:
        InputError: a column is missing, a value is not a number, lies outside its own range, has an
            unknown unit, an unreadable prior or no source, or a symbol stands twice.
    """
    source = path if path is not None else files("nanopinn.parameters").joinpath("table.csv")
    reader = csv.DictReader(source.read_text(encoding="utf-8").splitlines())
    missing = [c for c in COLUMNS if c not in (reader.fieldnames or [])]
    if missing:
        raise InputError(
            "the parameter table lacks a column", file=source, field=", ".join(missing)
        )
    table: dict[str, Parameter] = {}
    for row in reader:
        parameter = parse_parameter_row(row, str(source))
        if parameter.symbol in table:
            raise InputError("a parameter stands twice", file=source, field=parameter.symbol)
        table[parameter.symbol] = parameter
    return table


def parse_parameter_row(row: Mapping[str, str], source: str) -> Parameter:
    """The parameter that a row describes, by column; ``source`` is the file named in errors.

    Raises:
        InputError: as :func:`load_table`.
    """
    symbol = row["symbol"]
    prior = _parse_prior(row["prior"], symbol, source)
    default, low, high = (_number(row[c], symbol, c, source) for c in ("value", "low", "high"))
    if default is None:
        raise InputError("a parameter has no value", file=source, field=symbol)
    if (low is not None and default < low) or (high is not None and default > high):
        raise InputError(
            "a parameter lies outside its own range",
            file=source,
            field=symbol,
            found=default,
            expected=f"{low} to {high}",
        )
    if prior is not None and prior.kind == "lognormal" and default <= 0:
        raise InputError(
            "a log-normal prior needs a positive value", file=source, field=symbol, found=default
        )
    if not row["source"].strip():
        raise InputError("a parameter has no source", file=source, field=symbol)
    if row["verified"] not in ("yes", "memory"):
        raise InputError(
            "unknown standing of a source",
            file=source,
            field=f"{symbol}.verified",
            found=row["verified"],
            expected="yes or memory",
        )
    _check_unit(row["unit"], symbol, source)
    return Parameter(
        symbol=symbol,
        name=row["name"],
        value=default,
        low=low,
        high=high,
        unit=row["unit"],
        prior=prior,
        tissue=row["tissue"],
        source=row["source"],
        verified=row["verified"] == "yes",
    )


def _number(text: str, symbol: str, column: str, source: str) -> float | None:
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError as error:
        raise InputError(
            "not a number",
            file=source,
            field=f"{symbol}.{column}",
            found=text,
            expected="a decimal number",
        ) from error


def _parse_prior(text: str, symbol: str, source: str) -> Prior | None:
    if not text.strip():
        return None
    match = _PRIOR.fullmatch(text.strip())
    if match is None or not 0 < float(match[2]) < float("inf"):
        raise InputError(
            "unreadable prior",
            file=source,
            field=f"{symbol}.prior",
            found=text,
            expected="normal(SD) or lognormal(SD), with a positive SD",
        )
    return Prior(match[1], float(match[2]))  # type: ignore[arg-type]


# The units that occur in the table. A unit outside this set is a typing error far more often than a
# new dimension; tests hold the set against pint, whose import costs more than `nanopinn --help`
# may.
KNOWN_UNITS = frozenset(
    (
        "1|m|s|Pa|Pa/s|kg|1/s|1/m|m/s|m**2/s|m**3|1/m**3|kg/m**3|kg/s|m**2/(Pa*s)|1/(Pa*s)|mM|mM*s|1/(s*mM)|kg/L|mmol/kg|K|Gy|m**3/s|m**3/(kg*s)|J/(kg*K)|W/(m*K)"
    ).split("|")
)


def _check_unit(unit: str, symbol: str, source: str) -> None:
    if unit not in KNOWN_UNITS:
        raise InputError(
            "unknown unit",
            file=source,
            field=f"{symbol}.unit",
            found=unit,
            expected="one of " + ", ".join(sorted(KNOWN_UNITS)),
        )


class _Parameters(Mapping[str, Parameter]):
    """The packaged table, read on first use."""

    @staticmethod
    @cache
    def _table() -> dict[str, Parameter]:
        return load_table()

    def __getitem__(self, symbol: str) -> Parameter:
        return self._table()[symbol]

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self._table())

    def __len__(self) -> int:
        return len(self._table())


PARAMETERS = _Parameters()


def value(symbol: str) -> float:
    """The tabulated value of a parameter, in SI (mM for the imaging constants)."""
    return PARAMETERS[symbol].value


Array = NDArray[np.float64]

#: Standard normal deviate at the ends of a central 95 % interval.
Z95 = 1.959963984540054
#: How a range without a prior is read, for those who read results.
RANGE_INTERPRETATION = (
    "Parameters whose row states no prior are drawn so that the row's value is the median and its"
    " low and high are the central 95 % interval, cut off there: normal for temperatures, shares"
    " and what may be 0 or less, log-normal for all others."
)


@dataclass(frozen=True)
class ParameterDistribution:
    """Normal, or normal in the logarithm, about a median, with a spread of its own on either side.

    Attributes:
        median: in the parameter's unit.
        below, above: standard deviations of the coordinate (the value, or its natural logarithm).
        logarithmic: which of the two coordinates.
        cut: standard normal deviate beyond which nothing lies; infinite for a stated prior.
    """

    median: float
    sd_below: float
    sd_above: float
    logarithmic: bool
    truncation_z: float = np.inf

    def values_at_deviates(self, z: Array) -> Array:
        """Values at standard normal deviates ``z``, increasing in z; the median at 0."""
        from scipy.special import ndtr, ndtri

        z = np.asarray(z, dtype=np.float64)
        if np.isfinite(self.truncation_z):
            # the share of the normal within the cut, spread over the deviates within it
            z = ndtri(0.5 + (ndtr(z) - 0.5) * (ndtr(self.truncation_z) - ndtr(-self.truncation_z)))
        moved = z * np.where(z < 0, self.sd_below, self.sd_above)
        return np.asarray(self.median * np.exp(moved) if self.logarithmic else self.median + moved)


def parameter_distribution(p: Parameter) -> ParameterDistribution | None:
    """What a row says of a parameter's uncertainty: its prior, else its range; None where it has
    neither.

    Without a prior ``low`` and ``high`` are the central 95 % interval and hold every value
    (:data:`RANGE_INTERPRETATION`).
    """
    if p.prior is not None:
        return ParameterDistribution(p.value, p.prior.sd, p.prior.sd, p.prior.kind == "lognormal")
    if p.low is None or p.high is None:
        return None
    share = p.unit == "1" and p.high <= 1
    if p.unit == "K" or share or p.low <= 0:
        return ParameterDistribution(
            p.value,
            (p.value - p.low) / Z95,
            (p.high - p.value) / Z95,
            logarithmic=False,
            truncation_z=Z95,
        )
    return ParameterDistribution(
        p.value,
        float(np.log(p.value / p.low)) / Z95,
        float(np.log(p.high / p.value)) / Z95,
        logarithmic=True,
        truncation_z=Z95,
    )


#: Numbers beyond these, in SI, belong to no drug, and their products exceed what a float can hold.
_SMALLEST, _LARGEST = 1e-60, 1e60


@dataclass(frozen=True)
class QuantitySpecification:
    """Unit, meaning and admissible range of a quantity that a user may state.

    Attributes:
        unit: SI, as in the table.
        meaning: in words, for messages and reports.
        low: smallest value, included unless ``positive``.
        high: largest value, included.
        positive: whether the value must exceed 0.
    """

    unit: str
    meaning: str
    low: float = 0.0
    high: float = math.inf
    positive: bool = False

    def accepts(self, value: float) -> bool:
        """Whether a value lies in the admissible range."""
        return (
            self.low <= value <= min(self.high, _LARGEST)
            and (value == 0 or abs(value) >= _SMALLEST)
            and not (self.positive and value <= 0)
        )


Number = Tensor | float
Values = Mapping[str, Number]


def parameter_lookup(values: Values | None) -> Callable[[str], Number]:
    """What gives a parameter's value: the one given, else the table's."""
    moved = values or {}
    return lambda symbol: moved[symbol] if symbol in moved else value(symbol)


def scalar_lookup(values: Values | None) -> Callable[[str], float]:
    """The same as plain numbers, for what holds for one patient at a time."""
    find = parameter_lookup(values)
    return lambda symbol: float(find(symbol))
