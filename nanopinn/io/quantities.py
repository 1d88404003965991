"""Quantities as text, a number with a unit such as ``0.8 mm``, in SI."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any

from nanopinn.errors import InputError

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_QUANTITY = re.compile(rf"\s*({_NUMBER})\s*(.*?)\s*", re.ASCII | re.DOTALL)
#: Products and quotients of units with exponents of one digit. Other expressions, such as a power
#: of a power, could take hours to evaluate.
_SYMBOL = r"(?:1|%|[A-Za-zµμ]{1,24}(?:(?:\*\*|\^)?[-+]?\d)?)"
_UNIT = re.compile(rf"\(*{_SYMBOL}\)*(?:\s*[*/·]\s*\(*{_SYMBOL}\)*){{0,5}}")
_ATTACHED_EXPONENT = re.compile(r"(?<=[A-Za-zµμ])(?=[-+]?\d)")
#: Units that pint reads as something else: a coulomb, a picohenry.
_SUBSTITUTES = {"C": "degC", "pH": ""}


def parse_quantity(
    text: str, si_unit: str, *, default_unit: str | None = None, field: str
) -> float:
    """Read a number with a unit, and convert it to SI.

    Args:
        text: such as ``0.8 mm``, ``15mmHg`` or ``42 C``.
        si_unit: to which it is converted, as in the parameter table; ``1`` for numbers.
        default_unit: of a number without a unit; ``si_unit`` if None.
        field: of errors.

    Returns:
        The value in ``si_unit``.

    Raises:
        InputError: the text is no number with a unit, or the unit is of another dimension.
    """
    shown = "1" if si_unit == "1" else default_unit or si_unit
    expected = "a number" if shown == "1" else f"a number with a unit, such as 1 {shown}"
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise InputError("the quantity cannot be read", field=field, found=text, expected=expected)
    number, unit = float(found[1]), found[2] or default_unit or si_unit
    unit = _SUBSTITUTES.get(unit, f"1{unit}" if unit.startswith("/") else unit)
    if unit in ("", "1", si_unit):
        converted = number
    else:
        converted = _convert(number, unit, si_unit, text, expected, field)
    if not math.isfinite(converted):
        raise InputError("the quantity is not finite", field=field, found=text, expected=expected)
    return converted


def _convert(number: float, unit: str, si_unit: str, text: str, expected: str, field: str) -> float:
    import pint

    if _UNIT.fullmatch(unit) is None:
        raise InputError(
            "the unit of a quantity cannot be read", field=field, found=text, expected=expected
        )
    try:
        quantity = _registry().Quantity(number, _ATTACHED_EXPONENT.sub("**", unit))
        return float(quantity.to("dimensionless" if si_unit == "1" else si_unit).magnitude)
    except pint.DimensionalityError as error:
        raise InputError(
            "the unit of a quantity has another dimension",
            field=field,
            found=text,
            expected=expected,
        ) from error
    except Exception as error:  # pint raises many kinds of errors for text that is no unit
        raise InputError(
            "the unit of a quantity is not known", field=field, found=text, expected=expected
        ) from error


@cache
def _registry() -> Any:
    import pint  # its import and registry take half a second

    return pint.UnitRegistry()
