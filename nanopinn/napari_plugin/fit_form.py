"""The Maps tab and the Fit tab: settings, progress, and the result with prior and posterior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QRectF, Qt, Signal
from qtpy.QtGui import QColor, QPainter
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QComboBox,
    QFormLayout,
    QGridLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from nanopinn.napari_plugin.notify import notify_errors
from nanopinn.napari_plugin.treatment_form import TreatmentForm
from nanopinn.napari_plugin.worker import ConvergencePlots, RunBar

if TYPE_CHECKING:
    from nanopinn.results import ScalarEstimate

_CHOICES = {
    "engine": {"auto": "auto (fv)", "fv": "fv", "krylov": "krylov, then fv"},
    "preset": {"default": "default", "fast": "fast", "accurate": "accurate"},
    "device": {"auto": "auto", "cpu": "CPU", "cuda": "GPU"},
}


class FitTab(QWidget):
    """Settings, progress and result of a fit."""

    requested = Signal(dict)

    def __init__(self) -> None:
        super().__init__()
        self.boxes = {name: QComboBox() for name in _CHOICES}
        grid = QGridLayout()
        for column, (name, title) in enumerate(
            (("engine", "&Engine"), ("preset", "&Preset"), ("device", "De&vice"))
        ):
            for value, text in _CHOICES[name].items():
                self.boxes[name].addItem(text, value)
            label = QLabel(title)
            label.setBuddy(self.boxes[name])
            grid.addWidget(label, 0, column)
            grid.addWidget(self.boxes[name], 1, column)
        self.treatment = TreatmentForm()
        self.button = QPushButton("Run &fit")
        self.button.clicked.connect(self._request)
        self.bar, self.traces = RunBar(), ConvergencePlots()
        self.banner, self.message_label, self.table = QLabel(""), QLabel(""), ParameterTable()
        for label in (self.banner, self.message_label):
            label.setWordWrap(True)
        self.message_label.setStyleSheet("font-size: 11px;")
        self.banner.hide()
        whole = QVBoxLayout(self)
        whole.addLayout(grid)
        whole.addWidget(self.treatment)
        for w in (self.button, self.bar, self.traces, self.banner, self.message_label):
            whole.addWidget(w)
        whole.addWidget(self.table, 1)
        self.table.setMinimumHeight(200)

    def settings(self) -> dict[str, Any]:
        """Settings for :class:`nanopinn.FitSettings`.

        Raises:
            InputError: A field is no number.
        """
        choices = {name: box.currentData() for name, box in self.boxes.items()}
        return choices | self.treatment.settings()

    def _request(self) -> None:
        with notify_errors("The fit"):
            self.requested.emit(self.settings())

    def choose(self, **settings: str) -> None:
        """Choose settings as the user does."""
        for name, value in settings.items():
            self.boxes[name].setCurrentIndex(self.boxes[name].findData(value))

    def show_result(self, folder: Path) -> None:
        """Show the check and the parameters of a result folder.

        Raises:
            InputError: The folder is not a result folder.
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
        dominated = [s.name for s in result.scalars if not s.informed]
        information = (
            f"Prior-dominated, not informed by the images: {', '.join(dominated)}."
            if dominated
            else "The images inform all parameters."
        )
        self.message_label.setText(f"Grey bars: prior. Blue bars: posterior. {information}")
        self.table.show_parameters(result.scalars)


MODEL_LABELS = {
    "etofts": "extended Tofts",
    "tofts": "Tofts",
    "patlak": "Patlak",
    "2cum": "two-compartment uptake",
    "2cxm": "two-compartment exchange",
    "steady": "steady state",
    "auto": "least AICc in each voxel",
}


class MapsTab(QWidget):
    """Settings, progress and summary of the kinetic and pH maps."""

    requested = Signal(dict)

    def __init__(self) -> None:
        super().__init__()
        self.model = QComboBox()
        for name, text in MODEL_LABELS.items():
            self.model.addItem(text, name)
        self.smooth = QCheckBox("Spatial &regularisation of the kinetic maps")
        self.button = QPushButton("Make &maps")
        self.button.clicked.connect(lambda: self.requested.emit(self.choices()))
        self.bar = RunBar()
        self.summary = QLabel(
            "Maps of Ktrans, ve, vp, T1 and pH are added as layers. Click a voxel to see its curve."
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
        """Settings besides those of the Study tab."""
        return {"model": self.model.currentData(), "smooth": self.smooth.isChecked()}

    def show_summary(self, answer: dict[str, Any]) -> None:
        """Show the summary and the assumptions of a run."""
        self.summary.setText(
            answer["summary"]
            + "\n\nAssumptions:\n"
            + "\n".join(f"- {a}" for a in answer["assumptions"])
        )


HEADINGS = ("parameter", "prior (95 %)", "posterior (95 %)", "")
_BARS = Qt.ItemDataRole.UserRole


class ParameterTable(QTableWidget):
    """Table of the fitted parameters: prior and posterior, in numbers and as bars."""

    def __init__(self) -> None:
        super().__init__(0, len(HEADINGS))
        self.setHorizontalHeaderLabels(HEADINGS)
        self.setItemDelegateForColumn(3, _IntervalDelegate(self))
        self.verticalHeader().hide()
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setAccessibleName("parameters: prior and posterior")
        self.setStyleSheet("font-size: 11px;")
        self.verticalHeader().setDefaultSectionSize(24)
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(3, QHeaderView.ResizeMode.Stretch)

    def show_parameters(self, scalars: Sequence[ScalarEstimate]) -> None:
        """Show the parameters of a fit."""
        self.setRowCount(len(scalars))
        for row, s in enumerate(scalars):
            low, high = s.prior_interval()
            post = s.interval()
            information = "informed by the images" if s.informed else "prior-dominated"
            name = f"{s.name} ({s.unit})" if s.unit not in ("", "1") else s.name
            for column, text in enumerate(
                (
                    name,
                    f"{low:.3g} .. {high:.3g}",
                    f"{s.median:.3g} ({post[0]:.3g} .. {post[1]:.3g})",
                    "",
                )
            ):
                item = QTableWidgetItem(text)
                item.setToolTip(f"{s.label}: contraction {s.contraction:.2f}, {information}")
                item.setForeground(QColor("#d0d4da" if s.informed else "#8a929c"))
                if column == 3:
                    item.setData(_BARS, (_shift_in_prior_sd(s), s.sd / s.prior_sd))
                self.setItem(row, column, item)


def _shift_in_prior_sd(s: ScalarEstimate) -> float:
    """Distance from the prior to the posterior median, in prior standard deviations."""
    distance = (
        math.log(s.median / s.prior_median) if s.scale == "log" else s.median - s.prior_median
    )
    return distance / s.prior_sd


class _IntervalDelegate(QStyledItemDelegate):
    """Draws the 95 % intervals of prior and posterior, from -4 to 4 prior SD."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Any) -> None:
        found = index.data(_BARS)
        if found is None:
            return
        shift, width = found
        box = QRectF(option.rect).adjusted(4, 6, -4, -6)
        painter.save()
        painter.setPen(Qt.PenStyle.NoPen)
        for centre, sd, colour, inset in (
            (0.0, 1.0, "#5a626c", 0.0),
            (shift, width, "#4fc3f7", 2.5),
        ):
            ends = [min(max((centre + k * 1.96 * sd + 4) / 8, 0.0), 1.0) for k in (-1, 1)]
            painter.setBrush(QColor(colour))
            left, right = (box.left() + e * box.width() for e in ends)
            painter.drawRect(
                QRectF(left, box.top() + inset, max(right - left, 2.0), box.height() - 2 * inset)
            )
        painter.restore()
