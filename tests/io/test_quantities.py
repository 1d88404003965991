"""Quantities as text in SI."""

from __future__ import annotations

import pytest

from nanopinn.errors import InputError
from nanopinn.io.quantities import parse_quantity
from tests.variants import for_each


@for_each(
    "text, unit, customary, expected",
    [
        ("0.8mm", "m", "mm", 0.8e-3),
        ("0.8", "m", "mm", 0.8e-3),
        ("0.8", "m", None, 0.8),
        ("15 mmHg", "Pa", None, 15 * 133.322387415),
        ("0.72 1/h", "1/s", None, 2e-4),
        ("0.72h^-1", "1/s", None, 2e-4),
        ("0.72/h", "1/s", None, 2e-4),
        ("42 C", "K", None, 315.15),
        ("42 degC", "K", None, 315.15),
        ("6.5 pH", "1", "pH", 6.5),
        ("30 %", "1", None, 0.3),
        ("1.2e-6 cm2/s", "m**2/s", None, 1.2e-10),
        ("20 L/h", "m**3/s", None, 0.02 / 3600),
        ("0.5 ng", "kg", None, 5e-13),
    ],
)
def test_a_quantity_is_converted_to_SI(
    text: str, unit: str, customary: str | None, expected: float
) -> None:
    found = parse_quantity(text, unit, default_unit=customary, field="values")
    assert found == pytest.approx(expected, rel=1e-9)


@for_each(
    "text, words",
    [
        ("8 s", ["another dimension", "1 mm"]),
        ("8 furlongs/s", ["dimension"]),
        ("8 lengths", ["not known"]),
        ("eight mm", ["cannot be read"]),
        ("nan", ["cannot be read"]),
        ("1e999 mm", ["not finite"]),
        ("1 m**9**9**9", ["cannot be read"]),  # pint would compute the power
        ("1 __import__('os')", ["cannot be read"]),
    ],
)
def test_a_text_that_is_no_length_is_refused(text: str, words: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        parse_quantity(text, "m", default_unit="mm", field="values")
    for word in words:
        assert word in str(refused.value)
    assert refused.value.field == "values"
