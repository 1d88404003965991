"""From files to a saved result and back, in a napari window."""

from __future__ import annotations

import filecmp
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import napari
import nibabel as nib
import numpy as np
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QApplication, QCheckBox, QComboBox, QLineEdit, QListWidget, QPushButton

from nanopinn.napari_plugin.layers import from_napari_axes, map_layer
from nanopinn.napari_plugin.sources import LayerOrFile, export_to_file, plugin_metadata

from .conftest import finished, open_study, until, words


class Heart:
    """How long the window stood still: longest time, and longest work of its own, between two beats
    of a timer.
    """

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.work: list[float] = []
        self.last = time.perf_counter(), time.thread_time()
        self.timer = QTimer()
        self.timer.timeout.connect(self.beat)
        self.timer.start(20)

    def beat(self) -> None:
        now = time.perf_counter(), time.thread_time()
        self.wall.append(now[0] - self.last[0])
        self.work.append(now[1] - self.last[1])
        self.last = now


def layer(viewer: napari.Viewer, quantity: str) -> Any:
    return next(x for x in viewer.layers if plugin_metadata(x).get("quantity") == quantity)


def fit(panel: Any) -> None:
    panel.tabs.setCurrentIndex(2)
    panel.fit.choose(engine="fv", preset="fast", device="cpu")
    panel.fit.button.click()


def test_maps_are_shown_and_a_click_shows_the_voxel(
    viewer: napari.Viewer, panel: Any, study: Path
) -> None:
    open_study(viewer, study)
    assert not panel.study.problems
    panel.maps.button.click()
    assert finished(panel)
    ktrans = layer(viewer, "Ktrans")
    assert ktrans.visible
    assert ktrans.name == "Ktrans (1/min)"
    assert [str(u) for u in ktrans.units] == ["millimeter"] * 3
    # the world position of a voxel, as the mouse would give it
    at = np.asarray(ktrans.data_to_world((5, 6, 7)))
    press = type("Event", (), {"type": "mouse_press", "position": (0.0, *at)})()
    click = panel._handle_click(viewer, press)
    next(click)
    press.type = "mouse_release"
    assert next(click, "ended") == "ended"
    assert panel.voxel.voxel == (7, 6, 5)
    assert f"Ktrans {ktrans.data[5, 6, 7]:.3g} 1/min" in panel.voxel.values.text()
    assert panel.voxel.status.text() == "fit valid"
    measured = np.asarray(panel.voxel.curve.lines[0].y)
    model = np.asarray(panel.voxel.curve.lines[1].y)
    np.testing.assert_allclose(panel.voxel.residual.lines[1].y, measured - model, atol=1e-6)
    # the population curve's peak, in plasma, for 0.1 mmol/kg
    assert 5 < max(panel.voxel.artery.lines[0].y) < 15


def test_fit_is_saved_like_the_command_line_does_and_reopened(
    viewer: napari.Viewer, panel: Any, study: Path, tmp_path: Path, said: list[Any]
) -> None:
    open_study(viewer, study)
    heart = Heart()
    fit(panel)
    until(lambda: False, 0.2)
    heart.wall.clear()
    heart.work.clear()
    assert until(lambda: panel.worker.running is None, 200)
    still, busy = np.array(heart.wall), np.array(heart.work)
    print(
        f"\nlongest stand of the window {still.max() * 1e3:.0f} ms (99 % of {len(still)} beats"
        f" within {np.quantile(still, 0.99) * 1e3:.0f} ms), longest work of its own"
        f" {busy.max() * 1e3:.0f} ms"
    )
    # what the window itself did; the rest of its stand is the wait for a core that others use
    assert busy.max() < 0.1
    assert finished(panel)
    assert "CHECK" in panel.fit.banner.text()
    assert panel.fit.table.rowCount() == 10
    assert panel.fit.traces.losses() == ["chi2/N", "prior"]
    assert "l" in panel.fit.traces.parameters()
    for name in ("IFP", "IFP_std", "velocity", "krel", "Ktrans", "pH"):
        assert layer(viewer, name).ndim == 3
    vectors = next(x for x in viewer.layers if x._type_string == "vectors")
    assert len(vectors.data) > 100
    pool = layer(viewer, "free")
    assert pool.axis_labels[0] == "time after dose"
    pool.visible = True
    step = list(viewer.dims.current_step)
    step[-5] = 1
    viewer.dims.current_step = tuple(step)
    assert viewer.text_overlay.text == "2 h after the dose"

    out = tmp_path / "result"
    panel.save_to(out)
    assert "Saved" in words(said)
    panel.copy_command()
    copied = QApplication.clipboard().text()
    assert shlex.split(copied)[-1] == str(out)
    again = tmp_path / "by_command"
    line = [sys.executable, "-m", "nanopinn", *shlex.split(copied)[1:-1], str(again)]
    code = subprocess.run(
        line, capture_output=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, check=False
    ).returncode
    assert code in (0, 5)
    files = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert files == sorted(str(p.relative_to(again)) for p in again.rglob("*") if p.is_file())
    same = [f for f in files if f.startswith(("maps/", "fields/")) or f == "config.toml"]
    assert filecmp.cmpfiles(out, again, same, shallow=False)[0] == same

    before = {x.name: x.data for x in viewer.layers if "folder" in plugin_metadata(x)}
    viewer.layers.clear()
    panel.result = None
    viewer.open(str(out), plugin="nanopinn")
    until(lambda: False, 0.2)
    assert {x.name for x in viewer.layers} == {*before, "mask"}
    for name, data in before.items():
        np.testing.assert_array_equal(viewer.layers[name].data, data)
    assert panel.result == out
    assert panel.fit.table.rowCount() == 10
    assert not panel.copy.isEnabled()


def test_cancel_stops_at_once_and_leaves_the_viewer_unchanged(
    viewer: napari.Viewer, panel: Any, study: Path
) -> None:
    open_study(viewer, study)
    before = [(x.name, x.visible) for x in viewer.layers]
    fit(panel)
    assert until(lambda: panel.fit.traces.steps > 0, 90), panel.fit.bar.message.text()
    worker = panel.worker.running.processId()
    began = time.monotonic()
    panel.fit.bar.button.click()
    assert until(lambda: panel.worker.running is None, 10)
    assert time.monotonic() - began < 2
    assert not Path(f"/proc/{worker}").exists()
    assert panel.fit.bar.message.text() == "Cancelled. Nothing was changed."
    assert [(x.name, x.visible) for x in viewer.layers] == before
    assert panel.result is None
    assert panel.fit.button.isEnabled()
    panel.maps.button.click()  # and what comes next works
    assert finished(panel)
    assert layer(viewer, "Ktrans").visible


def test_layer_is_saved_with_its_affine(viewer: napari.Viewer, study: Path, tmp_path: Path) -> None:
    open_study(viewer, study, "ph")
    viewer.layers[0].save(str(tmp_path / "again.nii.gz"), plugin="nanopinn")
    old, new = nib.load(study / "ph.nii.gz"), nib.load(tmp_path / "again.nii.gz")
    np.testing.assert_allclose(new.affine, old.affine, atol=1e-6)
    np.testing.assert_allclose(new.get_fdata(), old.get_fdata(), rtol=1e-6)


def test_mask_drawn_in_napari_marks_the_same_voxels_in_its_file(
    viewer: napari.Viewer, panel: Any, study: Path
) -> None:
    open_study(viewer, study, "dce")
    viewer._new_labels()  # the button of the layer list
    drawn = viewer.layers[-1]
    assert drawn.data.shape == viewer.layers["dce"].data.shape
    drawn.data[3, 2, 4, 6] = 1
    path = export_to_file(LayerOrFile(drawn), panel.folder / "inputs", viewer.layers["dce"])
    image = nib.load(path)
    np.testing.assert_array_equal(np.argwhere(image.get_fdata() > 0), [[6, 4, 2]])
    np.testing.assert_allclose(image.affine, nib.load(study / "dce.nii.gz").affine, atol=1e-6)


def test_map_is_transparent_where_it_is_nan(viewer: napari.Viewer) -> None:
    values = np.full((8, 8, 3), np.nan)
    values[4:] = 1.0
    viewer.add_image(np.full((3, 8, 8), 0.5), colormap="green", contrast_limits=(0, 0.5))
    data, looks, _ = map_layer(values, np.eye(4), "Ktrans", "1/min", visible=True)
    viewer.add_image(data, **looks)
    assert from_napari_axes(viewer.layers[-1].data).shape == (8, 8, 3)
    until(lambda: False, 0.5)
    picture = viewer.screenshot(canvas_only=True, flash=False)
    middle = picture[picture.shape[0] // 2]
    green = (middle[:, 1] > 200) & (middle[:, 0] < 50)
    assert green.sum() > 0.1 * len(middle)


def test_every_control_can_be_reached_by_the_keyboard(viewer: napari.Viewer, panel: Any) -> None:
    kinds = (QPushButton, QComboBox, QCheckBox, QLineEdit, QListWidget)
    controls = [w for kind in kinds for w in panel.findChildren(kind)]
    assert len(controls) > 20
    assert not [w for w in controls if not w.focusPolicy() & Qt.FocusPolicy.TabFocus]
    assert all("&" in panel.tabs.tabText(tab) for tab in range(panel.tabs.count()))
    assert all(
        "&" in b.text()
        for b in (panel.maps.button, panel.fit.button, panel.fit.bar.button, panel.save, panel.copy)
    )
