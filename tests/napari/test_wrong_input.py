"""Wrong inputs in napari are reported as messages; the fixture ``said`` refuses tracebacks."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest

from nanopinn.napari_plugin.sources import LayerOrFile

from .conftest import finished, open_study, until, words


def test_empty_viewer_says_what_is_required(
    viewer: napari.Viewer, panel: Any, said: list[Any]
) -> None:
    assert "Required: a series" in panel.study.messages["dce"].text()
    panel.maps.button.click()
    panel.fit.button.click()
    panel.save_to(Path("/nowhere"))
    assert "Required: a series" in words(said)
    assert "no result yet" in words(said)
    assert panel.worker.running is None


def test_volume_as_series_is_refused_below_its_field(
    viewer: napari.Viewer, panel: Any, said: list[Any]
) -> None:
    viewer.add_image(np.ones((4, 5, 6)), name="one volume")
    panel.study.dce.choose(LayerOrFile(viewer.layers[0]))
    assert (
        panel.study.messages["dce"].text()
        == "one volume has 3 axes; a series has four axes (t, z, y, x)."
    )
    panel.maps.button.click()
    assert "volume has 3 axes; a series has four axes" in words(said)


def test_labels_layer_is_refused_as_series(viewer: napari.Viewer, panel: Any) -> None:
    viewer.add_labels(np.ones((7, 4, 5, 6), dtype=int), name="drawing")
    panel.study.dce.choose(LayerOrFile(viewer.layers[0]))
    assert "drawing is a labels layer, which holds no signal" in panel.study.messages["dce"].text()


def test_series_without_timing_is_accepted_once_values_are_entered(
    viewer: napari.Viewer, panel: Any
) -> None:
    viewer.add_image(np.random.default_rng(0).random((8, 4, 5, 6)), name="bare")
    panel.study.dce.choose(LayerOrFile(viewer.layers[0]))
    assert panel.study.problems
    for key, value in (
        ("RepetitionTime", "5"),
        ("RepetitionTimeExcitation", "0.005"),
        ("FlipAngle", "15"),
    ):
        panel.study.overrides[key].setText(value)
    assert (
        panel.study.messages["dce"].text() == "8 frames, 0 to 35 s; TR 5 ms, flip angle 15 degrees."
    )


def test_empty_mask_is_reported_before_the_run(
    viewer: napari.Viewer, panel: Any, study: Path
) -> None:
    open_study(viewer, study, "dce")
    viewer.add_labels(np.zeros((8, 12, 12), dtype=int), name="nothing drawn")
    panel.study.tumour.choose(LayerOrFile(viewer.layers[-1]))
    assert "nothing drawn is empty" in panel.study.messages["mask"].text()


def test_mask_outside_the_scan_is_reported(
    viewer: napari.Viewer, panel: Any, study: Path, said: list[Any]
) -> None:
    open_study(viewer, study, "dce", "vfa_fa02", "vfa_fa10", "vfa_fa20")
    viewer.add_labels(np.ones((3, 3, 3), dtype=int), name="far away", translate=(500, 500, 500))
    panel.study.tumour.choose(LayerOrFile(viewer.layers[-1]))
    assert "another grid" in panel.study.messages["mask"].text()
    before = len(viewer.layers)
    panel.maps.button.click()
    assert finished(panel)
    assert "does not overlap the DCE scan" in words(said)
    assert len(viewer.layers) == before


def test_ph_without_a_series_gives_its_maps_but_no_fit(
    viewer: napari.Viewer, panel: Any, study: Path, said: list[Any]
) -> None:
    open_study(viewer, study, "ph", "mask")
    assert "the pH alone" in panel.study.messages["dce"].text()
    panel.fit.button.click()
    assert "Required for kinetic maps and fits" in words(said)
    panel.maps.button.click()
    assert finished(panel)
    assert (panel.result / "maps" / "pH.nii.gz").is_file()
    assert not (panel.result / "maps" / "Ktrans.nii.gz").exists()
    assert panel.voxel is None
    assert any(layer.name.startswith("pH") for layer in viewer.layers)
    assert "--dce" not in panel.command


def test_fit_without_ph_names_the_field(
    viewer: napari.Viewer, panel: Any, study: Path, said: list[Any]
) -> None:
    open_study(viewer, study, "dce", "mask", "vfa_fa02", "vfa_fa10", "vfa_fa20")
    panel.fit.button.click()
    assert finished(panel)
    assert "'pH or CEST'" in words(said)
    assert "--cest" not in words(said)


def test_killed_worker_is_reported_and_the_next_run_works(
    viewer: napari.Viewer, panel: Any, study: Path, said: list[Any]
) -> None:
    open_study(viewer, study)
    before = [x.name for x in viewer.layers]
    panel.fit.button.click()
    assert until(lambda: "imaging" in panel.fit.bar.message.text() or panel.fit.traces.steps, 60)
    os.kill(panel.worker.running.processId(), signal.SIGKILL)
    assert finished(panel, 20)
    assert "it was killed" in words(said)
    assert [x.name for x in viewer.layers] == before
    panel.maps.button.click()
    assert finished(panel)
    assert panel.result is not None


def test_full_disk_is_reported_and_the_result_stays(
    viewer: napari.Viewer,
    panel: Any,
    study: Path,
    said: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    open_study(viewer, study, "dce", "mask", "vfa_fa02", "vfa_fa10", "vfa_fa20")
    panel.maps.button.click()
    assert finished(panel)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as m:
        m.setattr(os, "fsync", full)
        panel.save_to(tmp_path / "out")
    assert "No space left on device" in words(said)
    assert not list(tmp_path.iterdir())
    panel.save_to(tmp_path / "out")
    assert (tmp_path / "out" / "maps" / "Ktrans.nii.gz").is_file()
    panel.save_to(tmp_path / "out")
    assert "Choose another folder" in words(said)


def test_broken_file_is_reported(viewer: napari.Viewer, said: list[Any], tmp_path: Path) -> None:
    (tmp_path / "broken.nii.gz").write_bytes(b"\x1f\x8bnothing")
    viewer.open(str(tmp_path / "broken.nii.gz"), plugin="nanopinn")
    assert "broken.nii.gz" in words(said)
    assert len(viewer.layers) == 0


def test_layer_may_be_closed_during_a_run(viewer: napari.Viewer, panel: Any, study: Path) -> None:
    open_study(viewer, study, "dce", "mask", "vfa_fa02", "vfa_fa10", "vfa_fa20")
    panel.maps.button.click()
    viewer.layers.clear()
    assert finished(panel)
    assert "Ktrans (1/min)" in [x.name for x in viewer.layers]
