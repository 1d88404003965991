"""The arterial input: formula, grid, plasma, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nanopinn.errors import InputError
from nanopinn.imaging.dce.aif import load_aif
from nanopinn.imaging.dce.aif_population import POPULATION_CURVES, parker
from nanopinn.imaging.dce.impulse_response import plasma_from_blood
from tests.variants import for_each

pytestmark = pytest.mark.dce

FRAMES = np.arange(60) * 10.0


def load(spec: str | Path, **change: float):
    return load_aif(
        str(spec),
        frame_times_s=FRAMES,
        bolus_arrival_s=change.get("arrival", 47.3),
        hematocrit=0.42,
    ).curve


@pytest.mark.parametrize("name", list(POPULATION_CURVES))
def test_population_curves_are_linear_between_nodes_to_1e_4_of_their_peak(
    name: str,
) -> None:
    curve, known = load(name), POPULATION_CURVES[name]
    t = np.linspace(47.3 + 1e-6, FRAMES[-1], 200_001)
    exact = known.formula(t - 47.3) / (0.58 if known.fluid == "blood" else 1.0)
    assert np.abs(np.interp(t, curve.times_s, curve.plasma_mM) - exact).max() < 1e-4 * exact.max()


def test_weinmanns_curve_is_plasma_at_its_dose() -> None:
    # Tofts and Kermode 1991: 0.1 mmol/kg (3.99 + 4.78) kg/L at arrival
    assert load("weinmann").plasma_mM[0] == pytest.approx(0.877)


def test_a_shifted_parker_curve_covers_the_last_frame() -> None:
    assert load("parker").delayed(-12.0).times_s[-1] > FRAMES[-1]


def test_parkers_peak_and_arrival_are_those_of_the_paper() -> None:
    # Parker 2006, figure 3: first pass peaks near 6 mM about 10 s after arrival, the tail starts
    # near 1 mM
    t = np.arange(0, 600, 0.01)
    blood = parker(t)
    assert blood.max() == pytest.approx(6.0, rel=0.05)
    assert t[blood.argmax()] == pytest.approx(10.2, abs=0.3)
    assert parker(np.array([-1e-9, -1e6])).tolist() == [0.0, 0.0]


def test_plasma_is_blood_over_one_minus_hematocrit() -> None:
    assert plasma_from_blood(np.array([1.16]), 0.42)[0] == pytest.approx(2.0)


@pytest.mark.parametrize(("column", "factor"), [("plasma_mM", 1.0), ("blood_mM", 1 / 0.58)])
@pytest.mark.parametrize("separator", [",", "\t"])
def test_a_file_declares_blood_or_plasma(
    tmp_path: Path, column: str, factor: float, separator: str
) -> None:
    t, c = np.arange(0, 600, 5.0), np.linspace(0, 3, 120)
    path = tmp_path / "aif.tsv"
    rows = [f"{a}{separator}{b}" for a, b in zip(t, c, strict=True)]
    path.write_text("\ufeff" + "\n".join([f"time_s{separator}{column}", *rows]), encoding="utf-8")
    curve = load(path)
    np.testing.assert_array_equal(curve.times_s, t)
    np.testing.assert_allclose(curve.plasma_mM, c * factor)


GOOD = [f"{t},1.0" for t in range(0, 600, 5)]


@for_each(
    "lines, field",
    [
        (["time,plasma_mM", *GOOD], "header"),
        (["time_s,conc", *GOOD], "header"),
        (["time_s,plasma_mM,blood_mM", "0,1,1", "5,1,1", "600,1,1"], "header"),
        ([], "header"),
        (["time_s,plasma_mM", "0,1", "5,much", "600,1"], "plasma_mM"),
        (["time_s,plasma_mM", "0,1", "5", "600,1"], "plasma_mM"),
        (["time_s,plasma_mM", "0,1", "600,1"], "time_s"),
        (["time_s,plasma_mM", "0,1", "9,1", "5,1", "600,1"], "time_s"),
        (["time_s,plasma_mM", "0,1", "5,nan", "600,1"], "plasma_mM"),
        (["time_s,plasma_mM", "0,1", "5,1_0", "600,1"], "plasma_mM"),
        (["time_s,time_s,plasma_mM", "0,0,1", "5,6,1", "600,600,1"], "time_s"),
        (["time_s,plasma_mM", "0,0", "5,0", "600,0"], "plasma_mM"),
        (["time_s,plasma_mM", "0,1", "5,1", "300,1"], "time_s"),
        (["time_s,plasma_mM", "700,1", "705,1", "900,1"], "time_s"),
    ],
)
def test_a_file_that_is_not_an_arterial_input_is_refused(
    tmp_path: Path, lines: list[str], field: str
) -> None:
    path = tmp_path / "aif.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(InputError) as caught:
        load(path)
    assert caught.value.field == field
    assert caught.value.file == "aif.csv"
    assert caught.value.remedy


def test_a_binary_file_is_refused_as_an_arterial_input(tmp_path: Path) -> None:
    path = tmp_path / "aif.csv"
    path.write_bytes(bytes(range(128, 256)) * 4)
    with pytest.raises(InputError, match=r"aif\.csv"):
        load(path)
