"""The parameter table: valid units, use of every row, and refusals of invalid tables."""

from __future__ import annotations

import re
from pathlib import Path

import pint
import pytest

import nanopinn
from nanopinn.errors import InputError
from nanopinn.parameters import KNOWN_UNITS, PARAMETERS, load_table
from tests.variants import for_each

PACKAGE = Path(nanopinn.__file__).parent
TABLE = (PACKAGE / "parameters" / "table.csv").read_text()


def test_every_unit_is_known_to_pint() -> None:
    units = pint.UnitRegistry()
    units.define("mM = mol / m**3")
    for unit in KNOWN_UNITS:
        units.parse_units("dimensionless" if unit == "1" else unit.replace("1/", "1 / "))


def test_every_row_is_used() -> None:
    code = "".join(p.read_text() for kind in ("*.py", "*.toml") for p in PACKAGE.rglob(kind))
    unread = [
        s for s in PARAMETERS if not re.search(rf'"{re.escape(s)}"|"{re.escape(s[:-1])}\{{', code)
    ]
    assert unread == []


def test_defaults_lie_within_their_ranges_and_every_row_has_a_source() -> None:
    for p in PARAMETERS.values():
        assert p.low is None or p.low <= p.value, p.symbol
        assert p.high is None or p.value <= p.high, p.symbol
        assert p.source


@for_each(
    "old, new, word",
    [
        (
            "p_e,effective driving pressure p_v - sigmaT(pi_v - pi_i),1533",
            "p_e,x,15330000",
            "range",
        ),
        ("symbol,name", "symbol,nme", "column"),
        (",Pa,", ",Psi,", "unit"),
        ("p_e,effective driving pressure p_v - sigmaT(pi_v - pi_i),1533", "p_e,x,many", "number"),
    ],
)
def test_an_invalid_table_is_refused_with_the_name_of_the_row(
    tmp_path: Path, old: str, new: str, word: str
) -> None:
    assert old in TABLE
    (tmp_path / "t.csv").write_text(TABLE.replace(old, new, 1))
    with pytest.raises(InputError, match=word):
        load_table(tmp_path / "t.csv")


def test_a_duplicate_symbol_is_refused(tmp_path: Path) -> None:
    lines = TABLE.splitlines()
    (tmp_path / "t.csv").write_text("\n".join([*lines, lines[1]]))
    with pytest.raises(InputError, match="duplicate parameter"):
        load_table(tmp_path / "t.csv")
