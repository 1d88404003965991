"""Make the pictures of docs/napari.md: xvfb-run -a -s "-screen 0 1400x900x24" python
docs/make_screenshots.py [FOLDER]
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


def until(met: Callable[[], Any], seconds: float) -> None:
    """Let the window work until something is so, or fail."""
    end = time.monotonic() + seconds
    while not met():
        if time.monotonic() > end:
            raise TimeoutError("the window did not get there")
        QApplication.processEvents()
        time.sleep(0.01)


def rest(seconds: float = 1.5) -> None:
    """Let the window settle."""
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() > end, seconds + 5)


def shot(viewer: napari.Viewer, name: str) -> None:
    """The whole window as a picture; notifications have left by then."""
    rest(6)
    viewer.screenshot(str(OUT / f"napari_{name}.png"), canvas_only=False, flash=False)
    print(name, (OUT / f"napari_{name}.png").stat().st_size // 1000, "kB", flush=True)


def ended(panel: Any) -> None:
    """Wait for what was started."""
    until(
        lambda: (
            panel.worker.running is None
            and not panel.scene.pending_layers
            and panel.scene.on_finished is None
        ),
        1500,
    )


def main() -> None:
    """Study, maps, a fit as it runs, its result, arms."""
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1400, 900)
    viewer.open_sample("nanopinn", "tumour")
    _, panel = viewer.window.add_plugin_dock_widget("nanopinn", "nanopinn")
    shot(viewer, "study")
    panel.tabs.setCurrentIndex(1)
    panel.maps.button.click()
    ended(panel)
    shot(viewer, "maps")
    panel.tabs.setCurrentIndex(2)
    panel.fit.choose(engine="fv", device="cpu")
    panel.fit.button.click()
    until(lambda: panel.fit.traces.steps >= 4 or panel.worker.running is None, 1500)
    viewer.screenshot(str(OUT / "napari_fit.png"), canvas_only=False, flash=False)
    ended(panel)
    shot(viewer, "result")
    panel.tabs.setCurrentIndex(3)
    panel.therapy.draws.setValue(10)
    panel.therapy.button.click()
    ended(panel)
    step = list(viewer.dims.current_step)
    step[-5] = 0
    viewer.dims.current_step = tuple(step)
    shot(viewer, "therapy")
    panel.clean_up()
    viewer.close()


main()
