"""The voxel dock: concentration, fitted model, residual, arterial input and status of the voxel that was clicked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtWidgets import QHBoxLayout, QLabel, QSpinBox, QVBoxLayout, QWidget

from nanopinn.imaging.status import STATUS_TEXTS
from nanopinn.napari_plugin.chart import COLOURS, MUTED_COLOUR, Chart, Line


class VoxelCurves:
    """Curves of a study, on disk until a voxel is asked for."""

    def __init__(self, folder: Path) -> None:
        self.measured, self.fitted = (
            np.load(folder / f"{n}.npy", mmap_mode="r") for n in ("measured", "fitted")
        )
        self.status = np.load(folder / "status.npy", mmap_mode="r")
        with np.load(folder / "rest.npz") as rest:
            self.times_s, self.affine = rest["frame_times_s"], rest["affine"]
            self.aif_times_s, self.aif_mM = rest["aif_times_s"], rest["aif_plasma_mM"]

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along x, y, z."""
        return tuple(self.status.shape)

    def words(self, voxel: tuple[int, int, int]) -> str:
        """What is to be said of a voxel's fit."""
        bits = int(self.status[voxel])
        said = [w for b, w in STATUS_TEXTS.items() if bits & int(b)]
        return ", ".join(said) if said else "no complaint"


class VoxelDock(QWidget):
    """Plots of one voxel; its indices can be clicked or typed."""

    def __init__(self) -> None:
        super().__init__()
        self.curves: VoxelCurves | None = None
        self.maps: dict[str, tuple[Any, str]] = {}
        self.index = [QSpinBox() for _ in "xyz"]
        self.words = QLabel("Click a voxel of the scan, or type its indices.")
        self.words.setWordWrap(True)
        self.words.setStyleSheet("font-size: 11px;")
        self.status = QLabel("")
        self.status.setStyleSheet("font-weight: bold;")
        self.curve = Chart("contrast agent", "s", "mM")
        self.residual = Chart("residual", "s", "mM")
        self.artery = Chart("plasma input", "s", "mM")
        row = QHBoxLayout()
        for name, box in zip("xyz", self.index, strict=True):
            label = QLabel(name)
            label.setBuddy(box)
            row.addWidget(label)
            row.addWidget(box)
            box.setMaximumWidth(84)
            box.setAccessibleName(f"voxel {name}")
            box.valueChanged.connect(self.draw)
        row.addWidget(self.status, 1)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(6, 2, 6, 2)
        whole.addLayout(row)
        whole.addWidget(self.words)
        charts = QHBoxLayout()
        for chart in (self.curve, self.residual, self.artery):
            charts.addWidget(chart, 1)
        whole.addLayout(charts, 1)

    def show_curves(self, curves: VoxelCurves, maps: dict[str, tuple[Any, str]]) -> None:
        """Show the curves of another study, at its most enhancing voxel.

        Args:
            maps: values ``(x, y, z)`` and unit of each map, for the words.
        """
        self.curves, self.maps = curves, maps
        start = np.unravel_index(
            int(np.nanargmax(np.nan_to_num(np.asarray(curves.measured).mean(axis=0)))), curves.shape
        )
        for box, n in zip(self.index, curves.shape, strict=True):
            box.blockSignals(True)
            box.setMaximum(n - 1)
            box.blockSignals(False)
        self.show_voxel((int(start[0]), int(start[1]), int(start[2])))

    def show_voxel(self, voxel: tuple[int, int, int]) -> None:
        """Show one voxel; outside the scan nothing changes."""
        if self.curves is None or not all(
            0 <= i < n for i, n in zip(voxel, self.curves.shape, strict=True)
        ):
            return
        for box, i in zip(self.index, voxel, strict=True):
            box.blockSignals(True)
            box.setValue(i)
            box.blockSignals(False)
        self.draw()

    @property
    def voxel(self) -> tuple[int, int, int]:
        x, y, z = (box.value() for box in self.index)
        return x, y, z

    def draw(self) -> None:
        """Curves and words of the voxel."""
        if self.curves is None:
            return
        at, c = self.voxel, self.curves
        values = [
            f"{n} {m[at]:.3g}{'' if u == '1' else ' ' + u}"
            for n, (m, u) in self.maps.items()
            if np.isfinite(m[at])
        ]
        self.status.setText(c.words(at))
        self.words.setText(", ".join(values) or "no values here")
        measured, fitted = c.measured[:, *at], c.fitted[:, *at]
        span = (float(c.times_s[0]), float(c.times_s[-1]))
        dots = Line.of(c.times_s, measured, COLOURS[0], "measured", dots=True)
        self.curve.show_lines([dots, Line.of(c.times_s, fitted, COLOURS[1], "model")], span)
        zero = Line.of(span, (0.0, 0.0), MUTED_COLOUR)
        self.residual.show_lines(
            [zero, Line.of(c.times_s, measured - fitted, COLOURS[0], dots=True)], span
        )
        self.artery.show_lines([Line.of(c.aif_times_s, c.aif_mM, COLOURS[3])], span)
