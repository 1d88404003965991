"""The Therapy tab: arms, dose, heat and radiation; then the answer, arms side by side, and what
reaches far from vessels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from nanopinn.errors import InputError
from nanopinn.napari_plugin.layers import QUANTITIES, ClusterCurves
from nanopinn.napari_plugin.running import RunBar
from nanopinn.napari_plugin.voxel_chart import COLOURS, Chart, Line

ARM_DESCRIPTIONS = {
    "free": "doxorubicin as such",
    "pld": "PEGylated liposome",
    "tsl": "thermosensitive liposome",
    "ph": "pH-sensitive liposome",
}
_FIELDS = (
    ("&Dose", "dose", "50mg/m2", "of every arm, as 50mg/m2 or 5mg/kg"),
    ("&Heating", "heat", "42:60", "degC : minutes @ start in h; empty: none"),
    ("&Radiation", "radiation", "", "Gy @ hours, as 5@24; empty: none"),
)


class TherapyTab(QWidget):
    """From the arms to the answer."""

    requested = Signal(dict)
    quantity_selected = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.arms = {name: QCheckBox(name) for name in ARM_DESCRIPTIONS}
        row = QHBoxLayout()
        for name, box in self.arms.items():
            box.setToolTip(ARM_DESCRIPTIONS[name])
            box.setChecked(name in ("free", "tsl"))
            row.addWidget(box)
        form = QFormLayout()
        form.addRow("Arms", row)
        self.fields: dict[str, QLineEdit] = {}
        for title, name, given, hint in _FIELDS:
            self.fields[name] = QLineEdit(given)
            self.fields[name].setPlaceholderText(hint)
            self.fields[name].setToolTip(hint)
            form.addRow(title, self.fields[name])
        self.end, self.draws = QSpinBox(), QSpinBox()
        for number, low, high, value in ((self.end, 2, 336, 48), (self.draws, 0, 2000, 20)):
            number.setRange(low, high)
            number.setValue(value)
        self.draws.setToolTip("of all that is not known: the fit's posterior and the priors")
        form.addRow("&Until (h)", self.end)
        form.addRow("Dra&ws", self.draws)
        self.button = QPushButton("Compare &arms")
        self.button.clicked.connect(lambda: self.requested.emit(self.settings()))
        self.bar = RunBar()
        self.quantity_box = QComboBox()
        for quantity, words in QUANTITIES.items():
            self.quantity_box.addItem(words, quantity)
        self.quantity_box.currentIndexChanged.connect(
            lambda _: self.quantity_selected.emit(self.quantity_box.currentData())
        )
        self.curve = Chart(
            "peak intracellular concentration from the vessel wall", "um", "ng/1e5", legend=70
        )
        self.curve.setFixedHeight(170)
        self.location_label, self.message_label = (
            QLabel(""),
            QLabel("Arms go through the tumour of the fit that is shown."),
        )
        for label in (self.location_label, self.message_label):
            label.setWordWrap(True)
            label.setStyleSheet("font-size: 11px;")
        whole = QVBoxLayout(self)
        whole.addLayout(form)
        for w in (
            self.button,
            self.bar,
            self.quantity_box,
            self.curve,
            self.location_label,
            self.message_label,
        ):
            whole.addWidget(w)
        whole.addStretch()
        self.groups: ClusterCurves | None = None
        self.quantity_box.setEnabled(False)

    def settings(self) -> dict[str, Any]:
        """Choices, as :class:`nanopinn.settings.ComparisonSettings` takes them."""
        texts = {
            name: [t.strip() for t in line.text().split(",") if t.strip()]
            for name, line in self.fields.items()
        }
        return {
            "arms": [name for name, box in self.arms.items() if box.isChecked()],
            "dose": ",".join(texts["dose"]),
            "heat": texts["heat"],
            "radiation": texts["radiation"],
            "end_h": float(self.end.value()),
            "draws": self.draws.value(),
            "heating_min": [],
            "sensitivity": False,
        }

    def show_result(self, folder: Path) -> None:
        """The answer and the curves of a comparison.

        Raises:
            InputError: it cannot be read.
        """
        try:
            found = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
            self.groups = ClusterCurves.of(folder)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                "the comparison cannot be read",
                file=folder,
                found=str(error),
                remedy="Run it again.",
            ) from error
        self.message_label.setText("\n\n".join(found["answer"]))
        self.quantity_box.setEnabled(True)
        inside = self.groups.labels[self.groups.labels >= 0]
        largest = int(np.bincount(inside).argmax())
        self._draw(
            largest,
            f"In the largest group of voxels that are alike ({int((inside == largest).sum())})."
            " Click another.",
        )

    def clicked(self, position: Any) -> None:
        """The curves of the voxel under the mouse, which are those of all voxels that are like it."""
        voxel = None if self.groups is None else self.groups.voxel_at(position)
        if voxel is not None and self.groups is not None:
            group = int(self.groups.labels[voxel])
            self._draw(
                group,
                f"Voxel {voxel}, and {int((self.groups.labels == group).sum()) - 1} voxels like it."
                " Thin lines: 90 %.",
            )

    def _draw(self, group: int, words: str) -> None:
        assert self.groups is not None
        lines = []
        for i, (arm, curves) in enumerate(self.groups.curves.items()):
            x, colour = self.groups.distance_um, COLOURS[i % len(COLOURS)]
            lines += [
                Line.of(x, curves[group, :, k], colour, arm if k == 0 else "", thin=k > 0)
                for k in (0, 1, 2)
            ]
        self.curve.show_lines(lines)
        self.location_label.setText(words)
