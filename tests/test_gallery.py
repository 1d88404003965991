"""The examples of docs/gallery run and print what they should."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

GALLERY = Path(__file__).resolve().parents[1] / "docs" / "gallery"
#: A line that each example prints.
SAYS = {
    "quick_start": "contraction",
    "maps_only": "smallest AICc in",
    "own_aif": "Ktrans is scaled by 0.83",
    "fit_from_arrays": "interstitial fluid pressure",
    "reading_a_result": "Ktrans: ",
    "comparing_arms": "lethally exposed",
    "planning": "encapsulated",
    "custom_formulation": "polymer",
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all, so that study and fit are made once."""
    return tmp_path_factory.mktemp("gallery")


def test_every_example_is_short_and_tested() -> None:
    examples = {
        p.stem: len(p.read_text().splitlines()) for p in GALLERY.glob("*.py") if p.stem != "sample"
    }
    assert examples.keys() == SAYS.keys()
    assert max(examples.values()) <= 40


@pytest.mark.parametrize("name", SAYS)
def test_example_runs(
    name: str, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", str(work)])
    monkeypatch.syspath_prepend(str(GALLERY))
    monkeypatch.delitem(sys.modules, "sample", raising=False)
    runpy.run_path(str(GALLERY / f"{name}.py"), run_name="__main__")
    assert SAYS[name] in capsys.readouterr().out
