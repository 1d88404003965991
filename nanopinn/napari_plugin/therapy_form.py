"""The Therapy tab: treatment arms, and the conclusions and penetration curves of a comparison."""

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
from nanopinn.napari_plugin.layers import ARM_QUANTITIES, ClusterCurves, read_cluster_curves
from nanopinn.napari_plugin.notify import notify_errors
from nanopinn.napari_plugin.treatment_form import SpeciesBox, parse_number
from nanopinn.napari_plugin.voxel_chart import COLOURS, Chart, Line
from nanopinn.napari_plugin.worker import RunBar

ARM_DESCRIPTIONS = {
    "free": "free doxorubicin",
    "pld": "PEGylated liposome",
    "tsl": "thermosensitive liposome",
    "ph": "pH-sensitive liposome",
}
_FIELDS = (
    ("&Dose", "dose", "", "50mg/m2 in humans; otherwise such as 5mg/kg or 90mg"),
    ("&Heating", "heat", "42:60", "degC:minutes@start in h, such as 42:60@0.5; empty: none"),
    ("&Radiation", "radiation", "", "Gy@hours, such as 5@24; empty: none"),
)


class TherapyTab(QWidget):
    """Settings, progress and result of a comparison of treatment arms."""

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
        self.draws.setToolTip(
            "draws from the posterior of the fit and the priors of the other inputs"
        )
        self.species, self.weight = SpeciesBox("of the fit"), QLineEdit()
        self.weight.setPlaceholderText("kg; typical of the species")
        form.addRow("Species", self.species)
        form.addRow("Body weight (kg)", self.weight)
        form.addRow("&Until (h)", self.end)
        form.addRow("Dra&ws", self.draws)
        self.button = QPushButton("Compare &arms")
        self.button.clicked.connect(self._request)
        self.bar = RunBar()
        self.quantity_box = QComboBox()
        # the longest name would otherwise make the tab wider than the panel
        self.quantity_box.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.quantity_box.setMinimumContentsLength(20)
        for quantity, text in ARM_QUANTITIES.items():
            self.quantity_box.addItem(text, quantity)
        self.quantity_box.currentIndexChanged.connect(
            lambda _: self.quantity_selected.emit(self.quantity_box.currentData())
        )
        self.curve = Chart(
            "peak intracellular concentration from the vessel wall", "um", "ng/1e5", legend=70
        )
        self.curve.setFixedHeight(170)
        self.location_label, self.message_label = (
            QLabel(""),
            QLabel("The arms are simulated in the tumour of the fit that is shown."),
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
        """Settings for :class:`nanopinn.settings.ComparisonSettings`.

        Raises:
            InputError: A field is no number.
        """
        texts = {
            name: [t.strip() for t in line.text().split(",") if t.strip()]
            for name, line in self.fields.items()
        }
        subject = {
            "dose": ",".join(texts["dose"]) or None,
            "species": self.species.currentData(),
            "body_weight_kg": parse_number(self.weight.text().strip(), "'Body weight'"),
        }
        return {
            **{name: value for name, value in subject.items() if value is not None},
            "arms": [name for name, box in self.arms.items() if box.isChecked()],
            "heat": texts["heat"],
            "radiation": texts["radiation"],
            "end_h": float(self.end.value()),
            "draws": self.draws.value(),
            "heating_min": [],
            "sensitivity": False,
        }

    def _request(self) -> None:
        with notify_errors("The comparison"):
            self.requested.emit(self.settings())

    def show_result(self, folder: Path) -> None:
        """Show the conclusions and the penetration curves of a comparison.

        Raises:
            InputError: The result cannot be read.
        """
        try:
            found = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
            self.groups = read_cluster_curves(folder)
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
            f"The largest cluster of similar voxels ({int((inside == largest).sum())} voxels)."
            " Click a voxel to see its cluster.",
        )

    def show_voxel_at(self, position: Any) -> None:
        """Show the curves of the cluster of the voxel at a position in the world."""
        voxel = None if self.groups is None else self.groups.voxel_at(position)
        if voxel is not None and self.groups is not None:
            group = int(self.groups.labels[voxel])
            self._draw(
                group,
                f"Voxel {voxel} and {int((self.groups.labels == group).sum()) - 1} similar voxels."
                " Thin lines: 90 % interval.",
            )

    def _draw(self, group: int, message: str) -> None:
        assert self.groups is not None
        lines = []
        for i, (arm, curves) in enumerate(self.groups.curves.items()):
            x, colour = self.groups.distance_um, COLOURS[i % len(COLOURS)]
            lines += [
                Line.from_arrays(x, curves[group, :, k], colour, arm if k == 0 else "", thin=k > 0)
                for k in (0, 1, 2)
            ]
        self.curve.show_lines(lines)
        self.location_label.setText(message)
