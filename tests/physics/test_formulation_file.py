"""Formulations from files: the example's numbers reach plasma and tissue, and every mistake is
refused by name.
"""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import pytest
import torch

import nanopinn
from nanopinn.errors import InputError
from nanopinn.parameters import value
from nanopinn.physics import formulation_library
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.formulation_library import (
    FORMULATIONS,
    PEGYLATED,
    THERMOSENSITIVE,
    packaged_formulation,
    parse_formulation,
    read_formulation_folder,
)
from nanopinn.physics.plasma import Dose
from nanopinn.studies.schedule import find_formulation, read_formulation
from tests.variants import for_each

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "formulations" / "polymer_tsl.toml"
DOSES = (Dose(0.0, 90e-6),)


def number(v: float) -> torch.Tensor:
    return torch.tensor(v, dtype=torch.float64)


def changed(old: str, new: str) -> Formulation:
    text = EXAMPLE.read_text()
    assert old in text
    return parse_formulation(tomllib.loads(text.replace(old, new, 1)), "mine.toml")


def test_the_example_releases_as_van_elk_measured() -> None:
    k = float(read_formulation(EXAMPLE).release_rate(number(7.4), number(315.15)))
    assert 1 - math.exp(-300 * k) == pytest.approx(0.89, abs=0.005)  # 89 % in 5 min at 42 C


def test_own_numbers_reach_plasma_and_tissue_and_the_patients_are_kept() -> None:
    mine = read_formulation(EXAMPLE)
    free = [f.plasma(DOSES).free.area() for f in (mine, PEGYLATED)]
    assert free[0] / free[1] == pytest.approx(
        3e-6 / value("krel_PLD"), rel=1e-9
    )  # leaks three times as fast
    scalars, values = mine.tissue_parameters({"PS_l": 7e-6, "l": 1e-3})
    assert scalars == {"PS_l": 7e-6, "l": 1e-3}
    assert values["D_l_t"] == 3.1e-12
    assert "k_d_lip" not in values


def test_own_permeability_and_transmission_replace_those_of_the_patient() -> None:
    own = (
        'permeability = {value = 9e-6, unit = "1/s", source = "test"}\ntransmission = {value = 0.3,'
        ' unit = "1", source = "test"}\n'
    )
    mine = changed('permeability = "PS_l"\ntransmission = "leak_l"\n', own)
    scalars, _ = mine.tissue_parameters({"PS_l": 7e-6, "leak_l": 0.1})
    assert scalars == {"PS_l": 9e-6, "leak_l": 0.3}
    drawn = torch.tensor([1e-6, 2e-6])
    assert mine.tissue_parameters({}, {"polymer-tsl.permeability": drawn})[0]["PS_l"] is drawn


def test_packaged_formulations_change_nothing_of_the_tissue() -> None:
    for f in FORMULATIONS.values():
        assert f.tissue_parameters({"PS_l": 1.0}, {"tau_c": 3.0}) == ({"PS_l": 1.0}, {"tau_c": 3.0})


def test_draws_replace_own_values() -> None:
    mine = read_formulation(EXAMPLE)
    k = [
        float(mine.heat_release_excess(number(315.15), v))
        for v in (None, {"polymer-tsl.heat.k_hot": 2 * 7.4e-3 - 3e-6})
    ]
    assert k[1] == pytest.approx(2 * k[0], rel=1e-9)


def test_no_draw_leaks_more_than_the_total_elimination() -> None:
    drawn = PEGYLATED.plasma(DOSES, {"krel_PLD": 1.7e-5}).free.area()
    assert drawn == pytest.approx(90e-6 / value("CL_dox"), rel=1e-9)  # all of the dose, and no more


def test_a_formulation_is_hashable_and_prints_own_numbers_with_their_source() -> None:
    mine = read_formulation(EXAMPLE)
    assert {mine: 1}[read_formulation(EXAMPLE)] == 1
    line = next(row for row in str(mine).splitlines() if "heat.k_hot" in row)
    for word in ("0.0074 1/s", "lognormal(0.5)", "polymer_tsl.toml", "van Elk 2014"):
        assert word in line
    assert "diameter = 1.1e-07 m" in str(mine)


def test_names_and_aliases_find_the_same_formulation() -> None:
    assert packaged_formulation("TSL") is THERMOSENSITIVE is find_formulation("thermosensitive")
    assert find_formulation(str(EXAMPLE)).name == "polymer-tsl"
    assert [f.short_name for f in FORMULATIONS.values()] == ["free", "pld", "ph", "tsl"]


def test_a_formulation_is_added_by_one_toml_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in (Path(nanopinn.__file__).parent / "physics" / "formulations").iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "polymer.toml").write_text(EXAMPLE.read_text())
    found = read_formulation_folder(tmp_path)
    monkeypatch.setattr(formulation_library, "FORMULATIONS", found)
    assert list(found) == [
        "free",
        "pegylated",
        "pH-sensitive",
        "polymer-tsl",
        "thermosensitive",
    ]
    added = find_formulation("polymer-tsl")
    assert float(added.release_rate(number(7.4), number(315.15))) == pytest.approx(7.4e-3)
    assert added.plasma(DOSES).free.area() > 0


def test_two_formulation_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").write_text(EXAMPLE.read_text())
    with pytest.raises(InputError, match="same name"):
        read_formulation_folder(tmp_path)


@for_each(
    "old, new, words",
    [
        ('decay = "k_d_lip"\n', "", ["decay", "missing"]),
        ("[circulation]", "[circulations]", ["circulations", "unknown"]),
        ('volume = "V_PLD"\n', "", ["circulation.volume", "missing"]),
        (
            'retardation = "f_l"',
            "retardation = 0.5",
            ["retardation", "unit and source", 'unit = "1"'],
        ),
        ('unit = "m**2/s"', 'unit = "cm**2/s"', ["diffusion.unit", "cm**2/s", "m**2/s"]),
        ('decay = "k_d_lip"', 'decay = "D_l_t"', ["decay", "m**2/s", "1/s"]),
        (
            'decay = "k_d_lip"',
            'decay = "k_d"\nreflection = "sigma_f"',
            ["reflection", "transmission"],
        ),
        ('decay = "k_d_lip"', 'decay = "kdl"', ["decay", "kdl", "not in the parameter table"]),
        ("value = 3e-6", "value = -3e-6", ["leak.value", "-3e-06"]),
        ("value = 3e-6", 'value = "3e-6"', ["leak.value", "3e-6"]),
        ("value = 3e-6", "value = nan", ["leak.value", "nan"]),
        ("value = 3e-6", "value = 3e-3", ["polymer-tsl.leak", "range", "1e-06 to 4e-06"]),
        ("low = 1e-6, high = 4e-6", "sd = 1e-6", ["leak.sd", "unknown"]),
        (
            'value = 3e-6, unit = "1/s", low = 1e-6, high = 4e-6',
            'value = 3e-4, unit = "1/s"',
            ["leak", "exceeds the total elimination", "63.5 times its dose"],
        ),
        (
            'prior = "normal(0.7)"',
            'prior = "uniform(2)"',
            ["polymer-tsl.heat.T_m.prior", "uniform(2)"],
        ),
        ("value = 314.15", "value = 41", ["heat.T_m.value", "273.15"]),
        ("releasable_share = 1.0", "releasable_share = 1.2", ["releasable_share", "1.2", "0 to 1"]),
        ("releasable_share = 1.0", "releasable_share = true", ["releasable_share", "True"]),
        ('shares = ["f_PLD_1"]', "shares = []", ["circulation.shares", "0 shares"]),
        ('rates = ["k_PLD_1", "k_PLD"]', 'rates = "k_PLD"', ["circulation.rates", "list"]),
        ('name = "polymer-tsl"', "name = 3", ["name", "text"]),
        ('name = "polymer-tsl"', 'name = "../tsl"', ["name", "../tsl", "letters"]),
        ('name = "polymer-tsl"', 'name = "polymer-tsl"\naliases = ["a/b"]', ["aliases", "a/b"]),
        ("[heat]\n", "heat = 3\n[other]\n", ["other", "unknown"]),
    ],
)
def test_a_mistake_is_refused_with_the_name_of_its_field(
    old: str, new: str, words: list[str]
) -> None:
    with pytest.raises(InputError) as refused:
        changed(old, new)
    for word in ["mine.toml", *words]:
        assert word in str(refused.value)


def test_an_unknown_formulation_is_refused_with_the_known_names() -> None:
    with pytest.raises(InputError) as refused:
        find_formulation("doxil")
    for word in (
        "doxil",
        "free",
        "pegylated (pld)",
        "thermosensitive (tsl)",
        ".toml file",
        "docs/formulations",
    ):
        assert word in str(refused.value)


def test_a_file_that_is_not_toml_or_has_a_packaged_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("name = [")
    with pytest.raises(InputError, match=r"a.toml: the formulation cannot be read"):
        read_formulation(tmp_path / "a.toml")
    (tmp_path / "b.toml").write_text(EXAMPLE.read_text().replace("polymer-tsl", "PLD"))
    with pytest.raises(InputError, match="packaged"):
        read_formulation(tmp_path / "b.toml")
