"""The Maps tab: kinetic maps and pH, on screen as layers."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from nanopinn.napari_plugin.running import RunBar

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
