"""Duration of maps in the napari plugin for a study of 64 x 64 x 16 voxels and 60 frames, from the
click to the display, and the longest time for which the window is blocked.

Run: xvfb-run -a -s "-screen 0 1400x900x24" python benchmarks/napari_times.py
"""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import nibabel as nib
import numpy as np
import psutil
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from nanopinn.io.volumes import read_sidecar, write_volume

SAMPLE = Path(__file__).resolve().parents[1] / "sample_data"


def write_tiled_study(folder: Path) -> None:
    """Write the sample's series, flip-angle set and mask, repeated to 64 x 64 x 16 voxels."""
    for path in (
        SAMPLE / "dce.nii.gz",
        *sorted(SAMPLE.glob("vfa_*.nii.gz")),
        SAMPLE / "mask.nii.gz",
    ):
        image = nib.load(path)
        values = np.asarray(image.dataobj)
        repeats = [-(-n // m) for n, m in zip((64, 64, 16), values.shape, strict=False)]
        big = np.tile(values, (*repeats, *(1,) * (values.ndim - 3)))[:64, :64, :16]
        big = np.moveaxis(big, -1, 0) if big.ndim == 4 else big
        write_volume(
            folder / path.name,
            big,
            image.affine,
            sidecar=read_sidecar(path) or None,
            frame_spacing_s=10.0,
        )


def process_events_until(condition: Callable[[], Any], seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.002)


class EventLoopTimer:
    """Intervals between the ticks of a timer: elapsed time and the thread's processor time."""

    def __init__(self) -> None:
        self.gaps: list[tuple[float, float]] = []
        self.last = time.perf_counter(), time.thread_time()
        self.timer = QTimer()
        self.timer.timeout.connect(self.tick)
        self.timer.start(10)

    def tick(self) -> None:
        now = time.perf_counter(), time.thread_time()
        self.gaps.append((now[0] - self.last[0], now[1] - self.last[1]))
        self.last = now

    def print_and_reset(self, stage: str) -> None:
        wall, work = np.array(self.gaps).T * 1e3
        print(
            f"{stage}: window blocked for at most {wall.max():.0f} ms"
            f" ({np.quantile(wall, 0.99):.0f} ms in 99 % of {len(wall)} ticks), of which processor"
            f" time at most {work.max():.0f} ms",
            flush=True,
        )
        self.gaps.clear()


def main(folder: Path) -> None:
    write_tiled_study(folder)
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1400, 900)
    viewer.open([str(p) for p in sorted(folder.glob("*.nii.gz"))], plugin="nanopinn")
    _, panel = viewer.window.add_plugin_dock_widget("nanopinn", "nanopinn")
    process_events_until(
        lambda: False, 12
    )  # time to read the Study tab, in which the worker finishes its imports
    event_loop = EventLoopTimer()
    process_events_until(lambda: False, 5)
    event_loop.print_and_reset("idle")
    began = time.perf_counter()
    panel.maps.button.click()
    spent = psutil.Process(panel.worker.running.processId()).cpu_times()
    own, children = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process_events_until(lambda: panel.worker.running is None)
    computed = time.perf_counter() - began
    process_events_until(lambda: any(x.name.startswith("Ktrans (") for x in viewer.layers))
    displayed = time.perf_counter() - began
    process_events_until(lambda: not panel.scene.pending_layers and panel.scene.on_finished is None)
    complete = time.perf_counter() - began
    print(
        f"maps of 64 x 64 x 16 x 60: computed and written after {computed:.1f} s, Ktrans"
        f" displayed after {displayed:.1f} s, all maps after {complete:.1f} s"
    )
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = (
        now.ru_utime
        + now.ru_stime
        - children.ru_utime
        - children.ru_stime
        - spent.user
        - spent.system
    )
    print(
        f"  processor time: worker {worked:.1f} s, window {time.process_time() - own:.1f} s",
        flush=True,
    )
    event_loop.print_and_reset("maps")
    viewer.layers.clear()
    viewer.open_sample("nanopinn", "tumour")
    panel.fit.choose(engine="fv", preset="fast", device="cpu")
    process_events_until(lambda: False, 3)
    panel.fit.button.click()
    process_events_until(lambda: False, 0.2)
    event_loop.gaps.clear()
    panel.worker.done.connect(event_loop.timer.stop)
    process_events_until(lambda: panel.worker.running is None)
    event_loop.print_and_reset("fit")
    panel.clean_up()
    viewer.close()


if __name__ == "__main__":
    work = Path(tempfile.mkdtemp(prefix="nanopinn-times-"))
    try:
        main(work)
    finally:
        shutil.rmtree(work)
        sys.stdout.flush()
