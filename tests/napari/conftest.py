"""A napari window, a small study, and the notifications of a test."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import napari
import pytest
from napari.utils.notifications import Notification, NotificationSeverity, notification_manager
from qtpy.QtWidgets import QApplication

from nanopinn import PhantomSettings, make_phantom

# the worker inherits it: threads that wait for one another on a busy machine make these small fits
# tenfold slower
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a study so small that a fit of it takes seconds."""
    settings = PhantomSettings(
        shape=(12, 12, 8), frames=30, refine=2, length_scale_mm=0.45, drug_times_h=(2.0,)
    )
    return make_phantom(tmp_path_factory.mktemp("study") / "phantom", settings)


def until(met: Callable[[], Any], seconds: float = 60) -> bool:
    """Let the window work until something is so."""
    end = time.monotonic() + seconds
    while not met() and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)
    return bool(met())


@pytest.fixture
def said() -> Iterator[list[Notification]]:
    """Notifications of the test; none may be an error with a traceback."""
    heard: list[Notification] = []
    notification_manager.notification_ready.connect(heard.append)
    yield heard
    notification_manager.notification_ready.disconnect(heard.append)
    broken = [
        n.message
        for n in heard
        if n.severity >= NotificationSeverity.ERROR or "Traceback" in n.message
    ]
    assert not broken, broken


@pytest.fixture
def viewer(said: list[Notification]) -> Iterator[napari.Viewer]:
    """A viewer on a screen of 1400 x 900."""
    opened = napari.Viewer(show=True)
    opened.window.resize(1400, 900)
    yield opened
    opened.close()
    until(lambda: False, 0.1)
    gc.collect()


@pytest.fixture
def panel(viewer: napari.Viewer) -> Iterator[Any]:
    """The plugin's panel, opened as from the menu."""
    _, widget = viewer.window.add_plugin_dock_widget("nanopinn", "nanopinn")
    yield widget
    widget.clean_up()


def open_study(viewer: napari.Viewer, study: Path, *names: str) -> None:
    """Open files of a study as File > Open does; without names all that a fit takes."""
    chosen = names or (
        "dce",
        "ph",
        "mask",
        "vfa_fa02",
        "vfa_fa10",
        "vfa_fa20",
        "drug_encapsulated_2h",
        "drug_released_2h",
    )
    viewer.open([str(study / f"{n}.nii.gz") for n in chosen], plugin="nanopinn")


def finished(panel: Any, seconds: float = 150) -> bool:
    """Whether what was started has ended, its layers there."""
    return until(
        lambda: (
            panel.worker.running is None
            and not panel.scene.pending_layers
            and panel.scene.on_finished is None
        ),
        seconds,
    )


def words(said: list[Notification]) -> str:
    """All that was said."""
    return "\n".join(n.message for n in said)
