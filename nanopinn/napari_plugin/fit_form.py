"""The Fit tab: engine, preset, device; a live run; then the check, and prior beside posterior.

The Maps tab: kinetic maps and pH, on screen as layers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QGridLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from nanopinn.napari_plugin.estimates_table import ParameterTable
from nanopinn.napari_plugin.running import ConvergencePlots, RunBar

_CHOICES = {
    "engine": {"auto": "auto (fv)", "fv": "fv", "krylov": "krylov, polished by fv"},
    "preset": {"default": "default", "fast": "fast", "accurate": "accurate"},
    "device": {"auto": "auto", "cpu": "CPU", "cuda": "GPU"},
}


class FitTab(QWidget):
    """From the button to the answer."""

    requested = Signal(dict)

    def __init__(self) -> None:
        super().__init__()
        self.boxes = {name: QComboBox() for name in _CHOICES}
        grid = QGridLayout()
        for column, (name, title) in enumerate(
            (("engine", "&Engine"), ("preset", "&Preset"), ("device", "De&vice"))
        ):
            for value, words in _CHOICES[name].items():
                self.boxes[name].addItem(words, value)
            said = QLabel(title)
            said.setBuddy(self.boxes[name])
            grid.addWidget(said, 0, column)
            grid.addWidget(self.boxes[name], 1, column)
        self.button = QPushButton("Run &fit")
        self.button.clicked.connect(lambda: self.requested.emit(self.settings()))
        self.bar, self.traces = RunBar(), ConvergencePlots()
        self.banner, self.message_label, self.table = QLabel(""), QLabel(""), ParameterTable()
        for label in (self.banner, self.message_label):
            label.setWordWrap(True)
        self.message_label.setStyleSheet("font-size: 11px;")
        self.banner.hide()
        whole = QVBoxLayout(self)
        whole.addLayout(grid)
        for w in (self.button, self.bar, self.traces, self.banner, self.message_label):
            whole.addWidget(w)
        whole.addWidget(self.table, 1)
        self.table.setMinimumHeight(200)

    def settings(self) -> dict[str, Any]:
        """Choices, as :class:`nanopinn.FitSettings` takes them."""
        return {name: box.currentData() for name, box in self.boxes.items()}

    def choose(self, **settings: str) -> None:
        """Choose as the user would."""
        for name, value in settings.items():
            self.boxes[name].setCurrentIndex(self.boxes[name].findData(value))

    def show_result(self, folder: Path) -> None:
        """The check as a banner and the parameters of a result folder.

        Raises:
            InputError: it is none.
        """
        from nanopinn.report.result_folder import read_result

        result = read_result(folder)
        colour = "#2e7d32" if result.check.passed else "#b71c1c"
        self.banner.setText(result.check.headline)
        self.banner.setStyleSheet(
            f"background: {colour}; color: white; padding: 5px; border-radius: 3px; font-weight:"
            " bold;"
        )
        self.banner.setToolTip(
            "\n".join(
                f"{i.name}: {i.value:.3g}, limit {i.limit:.3g}. {i.meaning}"
                for i in result.check.items
            )
        )
        self.banner.show()
        carried = [s.name for s in result.scalars if not s.informed]
        said = (
            f"Not informed by the images, the prior speaks: {', '.join(carried)}."
            if carried
            else "The images informed all."
        )
        self.message_label.setText(f"Grey bars: prior; blue: posterior. {said}")
        self.table.show_parameters(result.scalars)


MODELS = {
    "etofts": "extended Tofts",
    "tofts": "Tofts",
    "patlak": "Patlak",
    "2cum": "two-compartment uptake",
    "2cxm": "two-compartment exchange",
    "steady": "steady state",
    "auto": "by AICc, voxel by voxel",
}


class MapsTab(QWidget):
    """Kinetic model, smoothing, and the button."""

    requested = Signal(dict)

    def __init__(self) -> None:
        super().__init__()
        self.model = QComboBox()
        for name, words in MODELS.items():
            self.model.addItem(words, name)
        self.smooth = QCheckBox("Voxels learn from their &neighbours")
        self.button = QPushButton("Make &maps")
        self.button.clicked.connect(lambda: self.requested.emit(self.choices()))
        self.bar = RunBar()
        self.summary = QLabel(
            "Maps of Ktrans, ve, vp, T1 and pH become layers. Then click a voxel to see its curve."
        )
        self.summary.setWordWrap(True)
        whole = QVBoxLayout(self)
        form = QFormLayout()
        form.addRow("Kinetic m&odel", self.model)
        form.addRow("", self.smooth)
        whole.addLayout(form)
        for w in (self.button, self.bar, self.summary):
            whole.addWidget(w)
        whole.addStretch()

    def choices(self) -> dict[str, Any]:
        """Choices beside those of the Study tab."""
        return {"model": self.model.currentData(), "smooth": self.smooth.isChecked()}

    def show_summary(self, answer: dict[str, Any]) -> None:
        """Say what was found."""
        self.summary.setText(
            answer["summary"]
            + "\n\nAssumed:\n"
            + "\n".join(f"- {a}" for a in answer["assumptions"])
        )
