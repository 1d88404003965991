"""Progress of what runs: stage, time left and Cancel; and its loss terms and parameters as curves."""

from __future__ import annotations

import math
from collections.abc import Mapping

from matplotlib.ticker import MaxNLocator
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget

from nanopinn.napari_plugin.plots import COLOURS, Plot, labelled, legend
from nanopinn.progress import Clock

#: The objective's terms, and what they are beside the unknowns.
TERMS = {"chi2/N": "chi2/N", "prior": "prior, sd2"}
_RESIDUAL = "residual "


class RunBar(QWidget):
    """A bar with the stage, the time left, and Cancel."""

    cancel = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.bar, self.words, self.button = QProgressBar(), QLabel(""), QPushButton("&Cancel")
        self.words.setStyleSheet("font-size: 11px;")
        self.words.setWordWrap(True)
        self.bar.setRange(0, 1000)
        self.bar.setTextVisible(False)
        self.bar.setMaximumHeight(12)
        self.button.clicked.connect(self.cancel)
        row = QHBoxLayout()
        row.addWidget(self.bar, 1)
        row.addWidget(self.button)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.addLayout(row)
        whole.addWidget(self.words)
        self.end("")

    def begin(self) -> None:
        """Something runs now."""
        self.clock = Clock()
        self.button.setEnabled(True)
        self.bar.setRange(0, 0)  # busy until the first share is known
        self.words.setText("Starting ...")

    def show_progress(self, stage: str, fraction: float) -> None:
        """Stage, share, time left."""
        left = self.clock.left_s(stage, fraction)
        self.bar.setRange(0, 1000)
        self.bar.setValue(int(1000 * fraction))
        self.words.setText(f"{stage}, {fraction:.0%}" + ("" if left is None else f", at most {left:.0f} s left in this stage"))

    def end(self, words: str) -> None:
        """Nothing runs now."""
        self.button.setEnabled(False)
        self.bar.setRange(0, 1000)
        self.bar.setValue(0)
        self.words.setText(words)


class Traces(Plot):
    """Loss terms and parameters against the steps taken; drawn at most twice a second."""

    def __init__(self) -> None:
        super().__init__(2, 1, height=230)
        self.setFixedHeight(230)
        self.series: dict[str, list[tuple[int, float]]] = {}
        self.steps = 0
        self.soon = QTimer(self)
        self.soon.setSingleShot(True)
        self.soon.setInterval(500)
        self.soon.timeout.connect(self.redraw)
        self.redraw()

    def begin(self) -> None:
        """Forget the last run."""
        self.series, self.steps = {}, 0
        self.redraw()

    def add(self, numbers: Mapping[str, float]) -> None:
        """One more step."""
        if not numbers:
            return
        self.steps += 1
        for name, value in numbers.items():
            self.series.setdefault(name, []).append((self.steps, value))
        if not self.soon.isActive():
            self.soon.start()

    def losses(self) -> list[str]:
        """Names of the terms of the loss, residuals of the networks among them."""
        return [n for n in self.series if n in TERMS or n.startswith(_RESIDUAL)]

    def parameters(self) -> list[str]:
        """Names of the unknowns."""
        return [n for n in self.series if n not in self.losses() and n != "objective"]

    def redraw(self) -> None:
        """Both plots; a parameter is shown over its first value, so that all share an axis."""
        loss, rest = self.cleared()
        for i, name in enumerate(self.losses()):
            steps, values = zip(*self.series[name], strict=True)
            loss.plot(steps, values, "o-", ms=2.5, lw=1.2, color=COLOURS[i % len(COLOURS)], label=TERMS.get(name, name))
        if _decades([v for n in self.losses() for _, v in self.series[n]]) > 1.5:
            loss.set_yscale("log")
        for i, name in enumerate(self.parameters()):
            steps, values = zip(*self.series[name], strict=True)
            if values[0] and len(set(values)) > 1:
                rest.plot(steps, [v / values[0] for v in values], "o-", ms=2.5, lw=1.2, color=COLOURS[i % len(COLOURS)], label=name)
        labelled(loss, "loss terms", "", "")
        labelled(rest, "parameters over their first value", "step", "")
        for ax in (loss, rest):
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            legend(ax, loc="center left", bbox_to_anchor=(1.0, 0.5))
        self.draw_idle()


def _decades(values: list[float]) -> float:
    """How many powers of ten positive values span."""
    positive = [v for v in values if v > 0]
    return math.log10(max(positive) / min(positive)) if positive else 0.0
