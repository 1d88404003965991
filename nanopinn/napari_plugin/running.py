"""Progress of a run: stage, remaining time, and convergence of objective and parameters."""

from __future__ import annotations

from collections.abc import Mapping

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget

from nanopinn.napari_plugin.voxel_chart import COLOURS, Chart, Line
from nanopinn.progress import RemainingTimeEstimator

#: Labels of the terms of the objective.
LOSS_TERMS = {"chi2/N": "chi2/N", "prior": "prior, SD2"}
_RESIDUAL = "residual "


class RunBar(QWidget):
    """Progress bar with the stage, the remaining time and a Cancel button."""

    cancel = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.bar, self.message, self.button = QProgressBar(), QLabel(""), QPushButton("&Cancel")
        self.message.setStyleSheet("font-size: 11px;")
        self.message.setWordWrap(True)
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
        whole.addWidget(self.message)
        self.end("")

    def begin(self) -> None:
        """Show that a run has started."""
        self.clock = RemainingTimeEstimator()
        self.button.setEnabled(True)
        self.bar.setRange(0, 0)  # busy until the first fraction is known
        self.message.setText("Starting ...")

    def show_progress(self, stage: str, fraction: float) -> None:
        """Show the stage, its fraction and the remaining time."""
        left = self.clock.estimate_remaining_s(stage, fraction)
        self.bar.setRange(0, 1000)
        self.bar.setValue(int(1000 * fraction))
        self.message.setText(
            f"{stage}, {fraction:.0%}"
            + ("" if left is None else f", at most {left:.0f} s left in this stage")
        )

    def end(self, message: str) -> None:
        """Show that the run has ended."""
        self.button.setEnabled(False)
        self.bar.setRange(0, 1000)
        self.bar.setValue(0)
        self.message.setText(message)


class ConvergencePlots(QWidget):
    """Terms of the objective and parameters against the iterations."""

    def __init__(self) -> None:
        super().__init__()
        self.series: dict[str, list[tuple[int, float]]] = {}
        self.steps = 0
        self.loss = Chart("objective", "step", "", legend=110, integer_ticks=True, log=True)
        self.unknowns = Chart(
            "parameters relative to their first value", "step", "", legend=110, integer_ticks=True
        )
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        for chart in (self.loss, self.unknowns):
            chart.setFixedHeight(150)
            whole.addWidget(chart)

    def begin(self) -> None:
        """Clear the charts for a new run."""
        self.series, self.steps = {}, 0
        self.redraw()

    def add(self, numbers: Mapping[str, float]) -> None:
        """Add the numbers of one step."""
        if numbers:
            self.steps += 1
            for name, value in numbers.items():
                self.series.setdefault(name, []).append((self.steps, value))
            self.redraw()

    def losses(self) -> list[str]:
        """Names of the terms of the objective and of the residuals."""
        return [n for n in self.series if n in LOSS_TERMS or n.startswith(_RESIDUAL)]

    def parameters(self) -> list[str]:
        """Names of the parameters."""
        return [n for n in self.series if n not in self.losses() and n != "objective"]

    def redraw(self) -> None:
        """Draw both charts; parameters are relative to their first value, to share an axis."""
        loss = [
            self._line(name, LOSS_TERMS.get(name, name), i) for i, name in enumerate(self.losses())
        ]
        changing = [
            n
            for n in self.parameters()
            if len({v for _, v in self.series[n]}) > 1 and self.series[n][0][1]
        ]
        self.loss.show_lines(loss)
        self.unknowns.show_lines(
            [self._line(n, n, i, self.series[n][0][1]) for i, n in enumerate(changing)]
        )

    def _line(self, name: str, label: str, number: int, over: float = 1.0) -> Line:
        steps, values = zip(*self.series[name], strict=True)
        return Line.from_arrays(
            steps, (v / over for v in values), COLOURS[number % len(COLOURS)], label
        )
