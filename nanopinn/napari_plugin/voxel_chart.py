"""Charts, and the dock with the curves of one voxel.

The charts are painted by Qt in a twentieth of the time that a plotting library takes, so that the
window stays responsive.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QFont, QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QHBoxLayout, QLabel, QSizePolicy, QSpinBox, QVBoxLayout, QWidget

from nanopinn.imaging.voxel_status import STATUS_TEXTS
from nanopinn.napari_plugin.axis_ticks import count_decades, log_ticks, nice_ticks, padded_range

BACK, INK, MUTED_COLOUR = "#262930", "#d0d4da", "#5a626c"
COLOURS = (
    "#4fc3f7",
    "#ffb74d",
    "#81c784",
    "#e57373",
    "#ba68c8",
    "#fff176",
    "#90a4ae",
    "#f06292",
    "#a1887f",
    "#4db6ac",
)


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        x: Horizontal positions.
        y: Values.
        colour: Colour of the curve.
        label: Label in the legend; none if empty.
        dots: Whether only points are drawn.
        thin: Whether the line is thin.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    colour: str
    label: str = ""
    dots: bool = False
    thin: bool = False

    @classmethod
    def from_arrays(
        cls,
        x: Iterable[float],
        y: Iterable[float],
        colour: str,
        label: str = "",
        *,
        dots: bool = False,
        thin: bool = False,
    ) -> Line:
        """Make a curve from arrays."""
        return cls(tuple(map(float, x)), tuple(map(float, y)), colour, label, dots, thin)


class Chart(QWidget):
    """Curves on one pair of axes, with title, units and legend."""

    def __init__(
        self,
        title: str,
        x: str,
        y: str,
        *,
        legend: int = 0,
        integer_ticks: bool = False,
        log: bool = False,
    ) -> None:
        """Make an empty chart.

        Args:
            title: Title.
            x: Label of the horizontal axis.
            y: Label of the vertical axis.
            legend: Width of a legend on the right, pixels; 0 puts it inside.
            integer_ticks: Whether the horizontal axis has integer ticks.
            log: Whether the vertical axis is logarithmic if the values span more than 1.5 decades.
        """
        super().__init__()
        self.title, self.x_label, self.y_label = title, x, y
        self.legend_width, self.integer_ticks, self.allow_log = legend, integer_ticks, log
        self.lines: list[Line] = []
        self.range: tuple[float, float] | None = None
        self.setMinimumHeight(90)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Expanding)

    def show_lines(self, lines: list[Line], x_range: tuple[float, float] | None = None) -> None:
        """Show these curves, over the given horizontal range or their own."""
        self.lines, self.range = lines, x_range
        self.update()

    def paintEvent(self, event: Any) -> None:  # Qt's own name
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.fillRect(self.rect(), QColor(BACK))
        painter.setFont(_font(8))
        box = QRectF(
            48, 20, max(self.width() - 58 - self.legend_width, 10), max(self.height() - 52, 10)
        )
        axes = _Axes(self, box)
        axes.frame(painter)
        painter.setClipRect(box.adjusted(-2, -2, 2, 2))
        for line in self.lines:
            axes.draw(painter, line)
        painter.setClipping(False)
        self._legend(painter, box)
        painter.end()

    def _legend(self, painter: QPainter, box: QRectF) -> None:
        shown = [x for x in self.lines if x.label]
        height = 12.0
        left = box.right() + 8 if self.legend_width else box.right() - 70
        top = box.top() if self.legend_width else box.bottom() - height * len(shown) - 3
        for i, line in enumerate(shown):
            middle = top + (i + 0.5) * height
            painter.setPen(QPen(QColor(line.colour), 2))
            painter.drawLine(QPointF(left, middle), QPointF(left + 10, middle))
            painter.setPen(QColor(INK))
            painter.drawText(
                QRectF(left + 14, middle - 7, 120, 14), Qt.AlignmentFlag.AlignVCenter, line.label
            )


class _Axes:
    """Axes of a chart, which convert numbers to pixels."""

    def __init__(self, chart: Chart, box: QRectF) -> None:
        self.chart, self.box = chart, box
        xs = [
            x
            for line in chart.lines
            for x, y in zip(line.x, line.y, strict=True)
            if math.isfinite(y)
        ]
        ys = [v for line in chart.lines for v in line.y if math.isfinite(v)]
        self.log = chart.allow_log and count_decades(ys) > 1.5 and min(ys) > 0
        self.x = chart.range or padded_range(xs)
        self.y = padded_range([math.log10(v) for v in ys] if self.log else ys)

    def to_pixel(self, x: float, y: float) -> QPointF:
        y = math.log10(y) if self.log else y
        across, up = (
            (x - self.x[0]) / (self.x[1] - self.x[0]),
            (y - self.y[0]) / (self.y[1] - self.y[0]),
        )
        return QPointF(
            self.box.left() + across * self.box.width(), self.box.bottom() - up * self.box.height()
        )

    def frame(self, painter: QPainter) -> None:
        painter.setPen(QPen(QColor(MUTED_COLOUR), 1))
        painter.drawRect(self.box)
        painter.setPen(QColor(INK))
        centre = Qt.AlignmentFlag.AlignCenter
        painter.drawText(QRectF(self.box.left(), 2, self.box.width(), 16), centre, self.chart.title)
        painter.drawText(
            QRectF(self.box.left(), self.box.bottom() + 15, self.box.width(), 14),
            centre,
            self.chart.x_label,
        )
        painter.drawText(QRectF(2, 2, self.box.left() - 6, 16), centre, self.chart.y_label)
        for v in self.y_ticks():
            y = self.to_pixel(self.x[0], v).y()
            painter.drawLine(QPointF(self.box.left() - 3, y), QPointF(self.box.left(), y))
            side = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
            painter.drawText(
                QRectF(0, y - 7, self.box.left() - 6, 14),
                side,
                f"{v:.4g}" if 1e-3 <= abs(v) < 1e5 or v == 0 else f"{v:.0e}",
            )
        for v in self.x_ticks():
            x = self.to_pixel(v, 10 ** self.y[0] if self.log else self.y[0]).x()
            painter.drawLine(QPointF(x, self.box.bottom()), QPointF(x, self.box.bottom() + 3))
            painter.drawText(QRectF(x - 25, self.box.bottom() + 3, 50, 12), centre, f"{v:.4g}")

    def y_ticks(self) -> list[float]:
        if self.log:
            return log_ticks(10 ** self.y[0], 10 ** self.y[1])
        return nice_ticks(*self.y, about=max(2, int(self.box.height() / 30)))

    def x_ticks(self) -> list[float]:
        found = nice_ticks(*self.x, about=max(2, int(self.box.width() / 55)))
        return [v for v in found if v == round(v)] if self.chart.integer_ticks else found

    def draw(self, painter: QPainter, line: Line) -> None:
        points = [
            self.to_pixel(x, y)
            for x, y in zip(line.x, line.y, strict=True)
            if math.isfinite(y) and not (self.log and y <= 0)
        ]
        painter.setPen(QPen(QColor(line.colour), 0.7 if line.thin else 1.6))
        if not line.dots:
            painter.drawPolyline(QPolygonF(points))
        if line.dots or (self.chart.integer_ticks and len(points) < 40):
            painter.setBrush(QColor(line.colour))
            for p in points:
                painter.drawEllipse(p, 1.6, 1.6)
            painter.setBrush(Qt.BrushStyle.NoBrush)


def _font(size: int) -> QFont:
    font = QFont()
    font.setPointSize(size)
    return font


class VoxelCurves:
    """Curves of all voxels of a study, read from disk for one voxel at a time."""

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
        """Number of voxels along x, y, z."""
        return tuple(self.status.shape)

    def describe_status(self, voxel: tuple[int, int, int]) -> str:
        """Describe the status of the fit of a voxel."""
        bits = int(self.status[voxel])
        texts = [text for bit, text in STATUS_TEXTS.items() if bits & int(bit)]
        return ", ".join(texts) if texts else "fit valid"


class VoxelDock(QWidget):
    """Charts of one voxel, chosen by a click or by its indices."""

    def __init__(self) -> None:
        super().__init__()
        self.curves: VoxelCurves | None = None
        self.maps: dict[str, tuple[Any, str]] = {}
        self.index = [QSpinBox() for _ in "xyz"]
        self.values = QLabel("Click a voxel of the scan, or type its indices.")
        self.values.setWordWrap(True)
        self.values.setStyleSheet("font-size: 11px;")
        self.status = QLabel("")
        self.status.setStyleSheet("font-weight: bold;")
        self.curve = Chart("contrast agent", "s", "mM")
        self.residual = Chart("residual", "s", "mM")
        self.artery = Chart("arterial input, plasma", "s", "mM")
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
        whole.addWidget(self.values)
        charts = QHBoxLayout()
        for chart in (self.curve, self.residual, self.artery):
            charts.addWidget(chart, 1)
        whole.addLayout(charts, 1)

    def show_curves(self, curves: VoxelCurves, maps: dict[str, tuple[Any, str]]) -> None:
        """Show the curves of a study, at its most enhancing voxel.

        Args:
            curves: Curves of all voxels.
            maps: Values ``(x, y, z)`` and unit of each map, to be listed.
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
        """Show one voxel; an index outside the scan is ignored."""
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
        """Index of the voxel that is shown."""
        x, y, z = (box.value() for box in self.index)
        return x, y, z

    def draw(self) -> None:
        """Draw the curves and list the values of the voxel."""
        if self.curves is None:
            return
        at, c = self.voxel, self.curves
        values = [
            f"{n} {m[at]:.3g}{'' if u == '1' else ' ' + u}"
            for n, (m, u) in self.maps.items()
            if np.isfinite(m[at])
        ]
        self.status.setText(c.describe_status(at))
        self.values.setText(", ".join(values) or "no values in this voxel")
        measured, fitted = c.measured[:, *at], c.fitted[:, *at]
        span = (float(c.times_s[0]), float(c.times_s[-1]))
        dots = Line.from_arrays(c.times_s, measured, COLOURS[0], "measured", dots=True)
        self.curve.show_lines(
            [dots, Line.from_arrays(c.times_s, fitted, COLOURS[1], "model")], span
        )
        zero = Line.from_arrays(span, (0.0, 0.0), MUTED_COLOUR)
        self.residual.show_lines(
            [zero, Line.from_arrays(c.times_s, measured - fitted, COLOURS[0], dots=True)], span
        )
        self.artery.show_lines([Line.from_arrays(c.aif_times_s, c.aif_mM, COLOURS[3])], span)
