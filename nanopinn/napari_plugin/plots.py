"""Small figures in the viewer's colours."""

from __future__ import annotations

from typing import Any

from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from qtpy.QtWidgets import QSizePolicy

BACK, INK, FAINT = "#262930", "#d0d4da", "#5a626c"
COLOURS = ("#4fc3f7", "#ffb74d", "#81c784", "#e57373", "#ba68c8", "#fff176", "#90a4ae", "#f06292", "#a1887f", "#4db6ac")


class Plot(FigureCanvasQTAgg):
    """A canvas with axes side by side or one above the other."""

    def __init__(self, rows: int = 1, columns: int = 1, height: int = 180) -> None:
        super().__init__(Figure(facecolor=BACK, layout="constrained"))
        self.setMinimumHeight(height)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.axes = list(self.figure.subplots(rows, columns, squeeze=False).ravel())
        for ax in self.axes:
            dressed(ax)

    def cleared(self) -> list[Any]:
        """The axes, empty."""
        for ax in self.axes:
            ax.clear()
            dressed(ax)
        return self.axes


def dressed(ax: Any) -> None:
    """Colours and sizes that can be read beside the images."""
    ax.set_facecolor(BACK)
    ax.tick_params(which="both", colors=INK, labelcolor=INK, labelsize=7.5, length=2)
    for side in ax.spines.values():
        side.set_color(FAINT)


def labelled(ax: Any, title: str, x: str, y: str) -> None:
    """Title and axes with their units."""
    ax.set_title(title, color=INK, size=8.5)
    ax.set_xlabel(x, color=INK, size=8, labelpad=1)
    ax.set_ylabel(y, color=INK, size=8, labelpad=1)


def legend(ax: Any, **more: Any) -> None:
    """A legend without a box."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=7, frameon=False, labelcolor=INK, handlelength=1.2, **more)
