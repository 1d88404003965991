"""Runs of the panel: the worker process, and the display of its progress.

A standby process has its imports done before the next request.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from qtpy.QtCore import QObject, QProcess, QProcessEnvironment, Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget

from nanopinn.napari_plugin.voxel_chart import COLOURS, Chart, Line
from nanopinn.progress import RemainingTimeEstimator

#: Message if the process ended without a reply.
_UNEXPECTED_END = (
    "The worker process ended without a result ({how}). Nothing was changed. Press the button"
    " again."
)


#: Labels of the terms of the objective.
LOSS_TERMS = {"chi2/N": "chi2/N", "prior": "prior, SD2"}
_RESIDUAL = "residual "


class Worker(QObject):
    """Runs one request at a time, each in a process of its own.

    Signals:
        progressed: Stage, fraction and numbers of a step.
        done: Reply of a request that succeeded.
        failed: Message of a request that failed.
        stopped: The request was cancelled.
    """

    progressed = Signal(str, float, dict)
    done = Signal(dict)
    failed = Signal(str)
    stopped = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.running: QProcess | None = None
        self.cancelled = False
        self.reply_received = False
        self.reply: dict[str, Any] = {}
        self.standby: QProcess | None = None

    def start_standby(self) -> None:
        """Start the process of the next request, so that its imports are done in time."""
        if self.standby is None:
            self.standby = self._start_process()

    def start(self, request: dict[str, Any]) -> None:
        """Start a request; only one runs at a time."""
        if self.running is not None:
            self.failed.emit("Another run is in progress. Wait for it, or press Cancel.")
            return
        self.start_standby()
        process, self.standby = self.standby, None
        assert process is not None
        self.running, self.cancelled, self.reply_received = process, False, False
        process.readyReadStandardOutput.connect(self._read)
        process.finished.connect(self._handle_finished)
        process.errorOccurred.connect(self._not_started)
        process.write((json.dumps(request) + "\n").encode())
        self._read()

    def cancel(self) -> None:
        """End the running process at once."""
        if self.running is not None:
            self.cancelled = True
            self.running.kill()

    def close(self) -> None:
        """End all processes without a signal."""
        for process in (self.running, self.standby):
            if process is not None:
                process.blockSignals(True)
                process.kill()
                process.waitForFinished(2000)
        self.running = self.standby = None

    def _start_process(self) -> QProcess:
        process = QProcess(self)
        environment = QProcessEnvironment.systemEnvironment()
        environment.insert("PYTHONUNBUFFERED", "1")
        process.setProcessEnvironment(environment)
        process.setStandardErrorFile(QProcess.nullDevice())
        process.start(sys.executable, ["-m", "nanopinn.napari_plugin.job"])
        return process

    def _read(self) -> None:
        while self.running is not None and self.running.canReadLine():
            self._take(json.loads(bytes(self.running.readLine().data())))

    def _take(self, message: dict[str, Any]) -> None:
        if self.cancelled or self.reply_received:
            return
        if "stage" in message:
            self.progressed.emit(message["stage"], message["fraction"], message["numbers"])
        elif "done" in message or "failed" in message:
            self.reply_received = True
            self.reply = message

    def _handle_finished(self) -> None:
        self._read()
        process, self.running = self.running, None
        if process is None:
            return
        process.deleteLater()
        if self.cancelled:
            self.stopped.emit()
        elif not self.reply_received:
            killed = process.exitStatus() == QProcess.ExitStatus.CrashExit
            self.failed.emit(
                _UNEXPECTED_END.format(
                    how=(
                        "it was killed, possibly because memory ran out"
                        if killed
                        else f"exit code {process.exitCode()}"
                    )
                )
            )
        elif "failed" in self.reply:
            self.failed.emit(self.reply["failed"])
        else:
            self.done.emit(self.reply["done"])
        self.start_standby()

    def _not_started(self, error: QProcess.ProcessError) -> None:
        if error == QProcess.ProcessError.FailedToStart and self.running is not None:
            self.running = None
            self.failed.emit(
                "The worker process cannot be started. Check that this Python is still installed."
            )


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
