"""The parameter table: values with units, sources and priors, and the distribution of each.

Values in place of the table's, such as a draw from the priors or those of a user's formulation, are
passed as a mapping by symbol (:data:`Values`).
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
    """Prior of a parameter: normal in its value or in its logarithm.

    Attributes:
        kind: normal or log-normal.
        sd: standard deviation, in the unit of the parameter for ``normal`` and in natural-log units
            for ``lognormal``.
    """

    kind: Literal["normal", "lognormal"]
    sd: float


@dataclass(frozen=True)
class Parameter:
    """One row of the parameter table.

    Attributes:
        symbol: by which the code names the parameter.
        name: in words.
        value: default, in ``unit``.
        low: lower end of the range, in ``unit``; None if not stated.
        high: upper end of the range, in ``unit``; None if not stated.
        unit: SI (mM for the imaging constants).
        prior: stated prior, or None.
        tissue: tissue or material to which the value applies.
        source: where the value is from.
        verified: whether the source was read.
    """

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
        """Whether the source of the value was read."""
        return "source verified" if self.verified else "source not verified"

    def distribution(self) -> ParameterDistribution | None:
        """Distribution from which it is sampled (:func:`parameter_distribution`), or None."""
        return parameter_distribution(self)


def load_table(path: Path | None = None) -> dict[str, Parameter]:
    """Read and validate a parameter table.

    Args:
        path: a CSV file with the columns of the packaged table; the packaged table if None.

    Returns:
        The parameters by symbol.

    Raises:
        InputError: a column is missing, a symbol is duplicate, or a row has a value that is not a
            number or outside its range, an unknown unit, an invalid prior or no source.
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
            raise InputError("duplicate parameter", file=source, field=parameter.symbol)
        table[parameter.symbol] = parameter
    return table


def parse_parameter_row(row: Mapping[str, str], source: str) -> Parameter:
    """Parse and validate one row of a parameter table.

    Args:
        row: entries by column.
        source: file that errors name.

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
            "unknown verification status",
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
    """A number, or None for an empty entry."""
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
    """A prior such as ``lognormal(0.5)``, or None for an empty entry."""
    if not text.strip():
        return None
    match = _PRIOR.fullmatch(text.strip())
    if match is None or not 0 < float(match[2]) < float("inf"):
        raise InputError(
            "invalid prior",
            file=source,
            field=f"{symbol}.prior",
            found=text,
            expected="normal(SD) or lognormal(SD), with a positive SD",
        )
    return Prior(match[1], float(match[2]))  # type: ignore[arg-type]


#: Units of the table. A unit outside this set is a typing error far more often than a new
#: dimension. A test compares the set with pint, whose import takes too long here.
KNOWN_UNITS = frozenset(
    (
        "1|m|s|Pa|Pa/s|kg|1/s|1/m|m/s|m**2/s|m**3|1/m**3|kg/m**3|kg/s|m**2/(Pa*s)|1/(Pa*s)|mM|mM*s|1/(s*mM)|kg/L|mmol/kg|K|Gy|m**3/s|m**3/(kg*s)|J/(kg*K)|W/(m*K)|"
        "m**3/kg|m**3/(s*kg)|kg/kg|m**2/kg**(2/3)"
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
    """Value of a parameter in the table, in SI (mM for the imaging constants).

    Args:
        symbol: of the parameter.
    """
    return PARAMETERS[symbol].value


Array = NDArray[np.float64]

#: Conventions, such as reference values and definitions, which have no uncertainty.
CONVENTIONS = frozenset({"pH_ref", "T_hot", "T_body", "RT_D", "HT_T", "p_O2_hyp", "p_O2_nec"})
#: Standard normal deviate at the ends of a central 95 % interval.
Z95 = 1.959963984540054
#: Interpretation of a range without a prior, for reports.
RANGE_INTERPRETATION = (
    "A parameter whose row states no prior is sampled from a distribution with the value of the"
    " row as median and its range as central 95 % interval, truncated to that range. The"
    " distribution is normal for temperatures, fractions and ranges that include 0 or negative"
    " values, and log-normal for all others."
)


@dataclass(frozen=True)
class ParameterDistribution:
    """Normal or log-normal distribution with a standard deviation on either side of its median.

    Attributes:
        median: in the unit of the parameter.
        sd_below: standard deviation of the coordinate below the median.
        sd_above: standard deviation of the coordinate above the median.
        logarithmic: whether the coordinate is the natural logarithm of the value, or the value.
        truncation_z: standard normal deviate of the truncation; infinite for a stated prior.
    """

    median: float
    sd_below: float
    sd_above: float
    logarithmic: bool
    truncation_z: float = np.inf

    def values_at_deviates(self, z: Array) -> Array:
        """Values at standard normal deviates, increasing in z, with the median at 0.

        Args:
            z: any shape.
        """
        from scipy.special import ndtr, ndtri

        z = np.asarray(z, dtype=np.float64)
        if np.isfinite(self.truncation_z):
            # probability within the truncation, mapped to deviates within it
            z = ndtri(0.5 + (ndtr(z) - 0.5) * (ndtr(self.truncation_z) - ndtr(-self.truncation_z)))
        moved = z * np.where(z < 0, self.sd_below, self.sd_above)
        return np.asarray(self.median * np.exp(moved) if self.logarithmic else self.median + moved)

    def value_after_step(self, z: float, step: float) -> float:
        """Value after a step along the mean slope within one deviate on either side of the start.

        Where the standard deviations below and above the median differ, the slope of the
        coordinate jumps at the median. The slope on one side alone would ignore the spread on the
        other.

        Args:
            z: standard normal deviate of the start.
            step: change of the deviate.
        """
        below, start, above = (float(self.values_at_deviates(np.array(z + d))) for d in (-1, 0, 1))
        if self.logarithmic:
            return start * float(np.exp(step * (np.log(above) - np.log(below)) / 2))
        return start + step * (above - below) / 2


def parameter_distribution(p: Parameter) -> ParameterDistribution | None:
    """Distribution of a parameter: its prior, else its range, else None.

    Without a prior ``low`` and ``high`` are the central 95 % interval, to which the distribution is
    truncated (:data:`RANGE_INTERPRETATION`).

    Args:
        p: row of the table.
    """
    if p.prior is not None:
        return ParameterDistribution(p.value, p.prior.sd, p.prior.sd, p.prior.kind == "lognormal")
    if p.low is None or p.high is None:
        return None
    fraction = p.unit == "1" and p.high <= 1
    if p.unit == "K" or fraction or p.low <= 0:
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


#: A value, or a tensor of values that broadcasts with the fields it multiplies.
Number = Tensor | float
#: Values of parameters by symbol, in place of the table's.
Values = Mapping[str, Number]


def parameter_lookup(values: Values | None) -> Callable[[str], Number]:
    """Function that looks up a parameter: the value given, else the table's.

    Args:
        values: by symbol, in place of the table's.
    """
    moved = values or {}
    return lambda symbol: moved[symbol] if symbol in moved else value(symbol)


def scalar_lookup(values: Values | None) -> Callable[[str], float]:
    """Function that looks up a parameter as a plain number, for one patient at a time.

    Args:
        values: by symbol, in place of the table's.
    """
    find = parameter_lookup(values)
    return lambda symbol: float(find(symbol))
