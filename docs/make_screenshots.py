"""Make the figures of docs/napari.md.

Run: xvfb-run -a -s "-screen 0 1400x900x24" python docs/make_screenshots.py [FOLDER]
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import napari
from qtpy.QtWidgets import QApplication

OUT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "figures")


def process_events_until(condition: Callable[[], Any], seconds: float) -> None:
    """Process the events of the window until a condition is met, or raise TimeoutError."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"the condition was not met within {seconds:g} s")
        QApplication.processEvents()
        time.sleep(0.01)


def process_events_for(seconds: float = 1.5) -> None:
    """Process the events of the window for some seconds."""
    end = time.monotonic() + seconds
    process_events_until(lambda: time.monotonic() > end, seconds + 5)


def save_screenshot(viewer: napari.Viewer, name: str) -> None:
    """Save a picture of the window, after a delay in which notifications disappear."""
    process_events_for(6)
    viewer.screenshot(str(OUT / f"napari_{name}.png"), canvas_only=False, flash=False)
    print(name, (OUT / f"napari_{name}.png").stat().st_size // 1000, "kB", flush=True)


def wait_for_job(panel: Any) -> None:
    """Wait until the running job has ended and its layers are displayed."""
    process_events_until(
        lambda: (
            panel.worker.running is None
            and not panel.scene.pending_layers
            and panel.scene.on_finished is None
        ),
        1500,
    )


def main() -> None:
    """Save the figures: study, maps, a running fit, its result, and treatment arms."""
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1400, 900)
    viewer.open_sample("nanopinn", "tumour")
    _, panel = viewer.window.add_plugin_dock_widget("nanopinn", "nanopinn")
    save_screenshot(viewer, "study")
    panel.tabs.setCurrentIndex(1)
    panel.maps.button.click()
    wait_for_job(panel)
    save_screenshot(viewer, "maps")
    panel.tabs.setCurrentIndex(2)
    panel.fit.choose(engine="fv", device="cpu")
    panel.fit.button.click()
    process_events_until(lambda: panel.fit.traces.steps >= 4 or panel.worker.running is None, 1500)
    viewer.screenshot(str(OUT / "napari_fit.png"), canvas_only=False, flash=False)
    wait_for_job(panel)
    save_screenshot(viewer, "result")
    panel.tabs.setCurrentIndex(3)
    panel.therapy.draws.setValue(10)
    panel.therapy.button.click()
    wait_for_job(panel)
    step = list(viewer.dims.current_step)
    step[-5] = 0
    viewer.dims.current_step = tuple(step)
    save_screenshot(viewer, "therapy")
    panel.clean_up()
    viewer.close()


main()
