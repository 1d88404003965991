"""Progress of what runs: stage, time left and Cancel; and its loss terms and parameters as curves."""

from __future__ import annotations

from collections.abc import Mapping

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget

from nanopinn.napari_plugin.voxel_chart import COLOURS, Chart, Line
from nanopinn.progress import RemainingTimeEstimator

#: The objective's terms, and what they are beside the unknowns.
LOSS_TERMS = {"chi2/N": "chi2/N", "prior": "prior, sd2"}
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
        self.clock = RemainingTimeEstimator()
        self.button.setEnabled(True)
        self.bar.setRange(0, 0)  # busy until the first share is known
        self.words.setText("Starting ...")

    def show_progress(self, stage: str, fraction: float) -> None:
        """Stage, share, time left."""
        left = self.clock.estimate_remaining_s(stage, fraction)
        self.bar.setRange(0, 1000)
        self.bar.setValue(int(1000 * fraction))
        self.words.setText(
            f"{stage}, {fraction:.0%}"
            + ("" if left is None else f", at most {left:.0f} s left in this stage")
        )

    def end(self, words: str) -> None:
        """Nothing runs now."""
        self.button.setEnabled(False)
        self.bar.setRange(0, 1000)
        self.bar.setValue(0)
        self.words.setText(words)


class ConvergencePlots(QWidget):
    """Loss terms and parameters against the steps taken."""

    def __init__(self) -> None:
        super().__init__()
        self.series: dict[str, list[tuple[int, float]]] = {}
        self.steps = 0
        self.loss = Chart("loss terms", "step", "", legend=110, integer_ticks=True, log=True)
        self.unknowns = Chart(
            "parameters over their first value", "step", "", legend=110, integer_ticks=True
        )
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        for chart in (self.loss, self.unknowns):
            chart.setFixedHeight(150)
            whole.addWidget(chart)

    def begin(self) -> None:
        """Forget the last run."""
        self.series, self.steps = {}, 0
        self.redraw()

    def add(self, numbers: Mapping[str, float]) -> None:
        """One more step."""
        if numbers:
            self.steps += 1
            for name, value in numbers.items():
                self.series.setdefault(name, []).append((self.steps, value))
            self.redraw()

    def losses(self) -> list[str]:
        """Names of the terms of the loss, residuals of the networks among them."""
        return [n for n in self.series if n in LOSS_TERMS or n.startswith(_RESIDUAL)]

    def parameters(self) -> list[str]:
        """Names of the unknowns."""
        return [n for n in self.series if n not in self.losses() and n != "objective"]

    def redraw(self) -> None:
        """Both charts; a parameter is shown over its first value, so that all share an axis."""
        loss = [
            self._line(name, LOSS_TERMS.get(name, name), i) for i, name in enumerate(self.losses())
        ]
        moved = [
            n
            for n in self.parameters()
            if len({v for _, v in self.series[n]}) > 1 and self.series[n][0][1]
        ]
        self.loss.show_lines(loss)
        self.unknowns.show_lines(
            [self._line(n, n, i, self.series[n][0][1]) for i, n in enumerate(moved)]
        )

    def _line(self, name: str, label: str, number: int, over: float = 1.0) -> Line:
        steps, values = zip(*self.series[name], strict=True)
        return Line.of(steps, (v / over for v in values), COLOURS[number % len(COLOURS)], label)
