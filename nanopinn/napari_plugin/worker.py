"""Start, watch and cancel the worker process; a standby process has its imports done."""

from __future__ import annotations

import json
import sys
from typing import Any

from qtpy.QtCore import QObject, QProcess, QProcessEnvironment, Signal

#: Message if the process ended without a reply.
_UNEXPECTED_END = (
    "The worker process ended without a result ({how}). Nothing was changed. Press the button"
    " again."
)


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
