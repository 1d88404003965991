"""Treatment arms in napari: layers, penetration curves of a clicked voxel, saved results."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest
from qtpy.QtWidgets import QApplication

from nanopinn import FitSettings, ImagingInputs, run_fit, write_fit
from nanopinn.napari_plugin.sources import plugin_metadata

from .conftest import finished, until, words


@pytest.fixture(scope="session")
def fitted(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result folder of a fit."""
    inputs = ImagingInputs(
        dce=study / "dce.nii.gz", cest=study / "ph.nii.gz", mask=study / "mask.nii.gz", t1=1.4
    )
    found = run_fit(inputs, FitSettings(engine="fv", preset="fast", device="cpu"))
    return write_fit(tmp_path_factory.mktemp("fit") / "result", found)


def test_arms_without_a_fit_are_refused_with_a_remedy(
    viewer: napari.Viewer, panel: Any, said: list[Any]
) -> None:
    panel.therapy.button.click()
    assert "needs the tumour of a fit" in words(said)


def test_invalid_dose_is_reported(
    viewer: napari.Viewer, panel: Any, fitted: Path, said: list[Any]
) -> None:
    viewer.open(str(fitted), plugin="nanopinn")
    panel.therapy.fields["dose"].setText("plenty")
    panel.therapy.button.click()
    assert finished(panel)
    assert "plenty" in words(said)
    assert "Traceback" not in words(said)


def test_arms_are_shown_together_and_a_click_shows_penetration(
    viewer: napari.Viewer, panel: Any, fitted: Path, tmp_path: Path
) -> None:
    viewer.open(str(fitted), plugin="nanopinn")
    therapy = panel.therapy
    therapy.fields["heat"].setText("42:30")
    therapy.end.setValue(6)
    therapy.draws.setValue(2)
    therapy.button.click()
    assert finished(panel, 200)
    assert (
        "lethal exposure" in therapy.message_label.text()
        or "the question cannot be answered" in therapy.message_label.text()
    )
    seen = [x for x in viewer.layers if x.visible]
    assert [plugin_metadata(x)["quantity_path"] for x in seen] == ["fields/intracellular"] * 2
    free, tsl = sorted(seen, key=lambda x: plugin_metadata(x)["arm_index"])
    assert (plugin_metadata(free)["arm"], plugin_metadata(tsl)["arm"]) == ("free", "tsl")
    assert viewer.text_overlay.text.startswith("from the left: free, tsl")
    # one beside the other, one colour scale, one slider
    assert tsl.extent.world[0, -1] > free.extent.world[1, -1]
    assert tuple(free.contrast_limits) == tuple(tsl.contrast_limits)
    assert free.data.shape == tsl.data.shape
    group = therapy.groups
    voxel = tuple(int(i) for i in np.argwhere(group.labels >= 0)[3])
    for arm in (free, tsl):
        at = arm.data_to_world((0, 0, *voxel[::-1]))
        assert group.voxel_at(at) == voxel
    therapy.show_voxel_at(free.data_to_world((0, 0, *voxel[::-1])))
    assert str(voxel) in therapy.location_label.text()
    np.testing.assert_allclose(
        therapy.curve.lines[0].y, group.curves["free"][group.labels[voxel], :, 0]
    )
    index = therapy.quantity_box.findData("maps/lethal_beyond_peak")
    therapy.quantity_box.setCurrentIndex(index)
    seen = [x for x in viewer.layers if x.visible]
    assert {plugin_metadata(x)["quantity_path"] for x in seen} == {"maps/lethal_beyond_peak"}
    assert all(tuple(x.contrast_limits) == (0, 1) for x in seen)

    panel.copy_command()
    copied = shlex.split(QApplication.clipboard().text())
    assert copied[:4] == ["nanopinn", "simulate", "--from", str(fitted)]
    assert copied[copied.index("--heat") + 1] == "42:30"
    panel.save_to(tmp_path / "arms")
    names = {x.name for x in viewer.layers if "quantity_path" in plugin_metadata(x)}
    viewer.layers.clear()
    panel.result = None
    viewer.open(str(tmp_path / "arms"), plugin="nanopinn")
    until(lambda: False, 0.2)
    assert {x.name for x in viewer.layers} == names
    assert panel.result == tmp_path / "arms"
