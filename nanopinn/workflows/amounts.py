"""Amounts of drug that are given to people, and others that are errors of unit."""

from __future__ import annotations

from pathlib import Path

from nanopinn.errors import InputError
from nanopinn.parameters import PARAMETERS

MG = 1e-6
#: A dose so many times beyond the table's range is refused: doses differ from the range by a few times, errors of unit by a thousand.
DOSE_RANGE_FACTOR = 10.0


def validate_dose_mg(amount_mg: float, field: str, found: str, path: Path | None) -> float:
    """The amount, unless no person is given so much or so little: plasma kinetics are those of people.

    Args:
        field, found, path: what errors name.

    Raises:
        InputError: it is more than ten times the largest or less than a tenth of the smallest usual dose.
    """
    p = PARAMETERS["Dose"]
    assert p.low is not None
    assert p.high is not None
    low, high = p.low / MG, p.high / MG
    if not low / DOSE_RANGE_FACTOR <= amount_mg <= high * DOSE_RANGE_FACTOR:
        usual, widest = (
            f"{low:g} to {high:g} mg ({p.value / MG:g} mg are 50 mg/m2)",
            f"{low / DOSE_RANGE_FACTOR:.2g} to {high * DOSE_RANGE_FACTOR:g}",
        )
        raise InputError(
            "no such dose of doxorubicin is given",
            file=path,
            field=field,
            found=found,
            expected=f"{usual} as a rule, {widest} at all",
            remedy="Check the unit: amounts are in mg, for a person, whose plasma kinetics the model has.",
        )
    return amount_mg
