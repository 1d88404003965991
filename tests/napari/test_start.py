"""Start of the plugin: import time, manifest, and the sample study without a network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import napari
import npe2
import pytest

from nanopinn.napari_plugin import reader

from .conftest import until

IMPORT = """
import sys, time
import napari, numpy, qtpy.QtWidgets
napari.Viewer
began = time.process_time()
import nanopinn.napari_plugin.panel, nanopinn.napari_plugin.reader, nanopinn.napari_plugin.sources
heavy = ("torch", "monai", "matplotlib", "scipy.optimize")
print(time.process_time() - began, [m for m in heavy if m in sys.modules])
"""


def test_plugin_is_imported_within_0_3_s_and_without_torch() -> None:
    seconds, heavy = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True
    ).stdout.split(" ", 1)
    print(f"\nimport of the plugin: {float(seconds):.3f} s")
    assert float(seconds) < 0.3
    assert "torch" not in heavy
    assert "monai" not in heavy


def test_manifest_is_valid_and_every_command_can_be_imported() -> None:
    manifest = npe2.PluginManifest.from_distribution("nanopinn")
    manifest.validate_imports()
    assert {w.display_name for w in manifest.contributions.widgets} == {"nanopinn"}
    assert manifest.contributions.sample_data[0].display_name == "Tumour study (synthetic)"


def test_reader_accepts_result_folders_and_no_other_files(
    tmp_path: Path,
) -> None:
    from nanopinn.napari_plugin.reader import get_reader

    (tmp_path / "provenance.json").write_text("{}")
    assert get_reader(str(tmp_path)) is not None
    assert get_reader(str(tmp_path / "picture.png")) is None
    assert get_reader(str(tmp_path.parent)) is None


def test_sample_fills_every_field(viewer: napari.Viewer, panel: Any) -> None:
    viewer.open_sample("nanopinn", "tumour")
    assert not panel.study.problems
    assert panel.study.dce.source().name == "dce"
    assert panel.study.ph.source().name == "ph"
    assert panel.study.tumour.source().name == "mask"
    assert len(panel.study.vfa.sources()) == 3
    assert len(panel.study.drug.sources()) == 4
    series = viewer.layers["dce"]
    assert series.axis_labels == ("t", "z", "y", "x")
    assert [str(u) for u in series.units] == ["second", "millimeter", "millimeter", "millimeter"]
    assert tuple(series.scale) == pytest.approx((10.0, 0.5, 0.5, 0.5))


def test_installation_without_checkout_simulates_its_sample_once(
    viewer: napari.Viewer, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(
        reader,
        "__file__",
        str(tmp_path / "site-packages" / "nanopinn" / "napari_plugin" / "reader.py"),
    )
    monkeypatch.setattr(
        reader,
        "SAMPLE_SETTINGS",
        {"shape": [8, 8, 6], "frames": 12, "refine": 2, "length_scale_mm": 0.45},
    )
    monkeypatch.setattr(reader, "_cache_folder", lambda: tmp_path / "cache")
    layers = reader.open_sample()
    assert next(looks["name"] for _, looks, _ in layers) == "dce"
    until(lambda: False, 0.1)
    stamp = (tmp_path / "cache" / "sample-1" / "dce.nii.gz").stat().st_mtime_ns
    reader.open_sample()
    assert (tmp_path / "cache" / "sample-1" / "dce.nii.gz").stat().st_mtime_ns == stamp
