"""The parameter panel: prior beside posterior, in numbers and as bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QRectF, Qt
from qtpy.QtGui import QColor, QPainter
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableWidget,
    QTableWidgetItem,
)

if TYPE_CHECKING:
    from nanopinn.results.fit_result import ScalarEstimate

HEADINGS = ("quantity", "prior (95 %)", "posterior (95 %)", "")
_BARS = Qt.ItemDataRole.UserRole


class ParameterTable(QTableWidget):
    """One row per unknown."""

    def __init__(self) -> None:
        super().__init__(0, len(HEADINGS))
        self.setHorizontalHeaderLabels(HEADINGS)
        self.setItemDelegateForColumn(3, _IntervalDelegate(self))
        self.verticalHeader().hide()
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setAccessibleName("parameters: prior beside posterior")
        self.setStyleSheet("font-size: 11px;")
        self.verticalHeader().setDefaultSectionSize(24)
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(3, QHeaderView.ResizeMode.Stretch)

    def show_parameters(self, scalars: Sequence[ScalarEstimate]) -> None:
        """Show the unknowns of a fit."""
        self.setRowCount(len(scalars))
        for row, s in enumerate(scalars):
            low, high = s.prior_interval()
            post = s.interval()
            said = (
                "the images say this"
                if s.informed
                else "the prior speaks: the images do not inform it"
            )
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
                item.setToolTip(f"{s.label}: contraction {s.contraction:.2f}, {said}")
                item.setForeground(QColor("#d0d4da" if s.informed else "#8a929c"))
                if column == 3:
                    item.setData(_BARS, (_shift_in_prior_sd(s), s.sd / s.prior_sd))
                self.setItem(row, column, item)


def _shift_in_prior_sd(s: ScalarEstimate) -> float:
    """From the prior's median to the posterior's, in prior standard deviations."""
    import math

    distance = (
        math.log(s.median / s.prior_median) if s.scale == "log" else s.median - s.prior_median
    )
    return distance / s.prior_sd


class _IntervalDelegate(QStyledItemDelegate):
    """The 95 % intervals of prior and posterior, from -4 to 4 prior standard deviations."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Any) -> None:
        found = index.data(_BARS)
        if found is None:
            return
        moved, width = found
        box = QRectF(option.rect).adjusted(4, 6, -4, -6)
        painter.save()
        painter.setPen(Qt.PenStyle.NoPen)
        for centre, sd, colour, inset in (
            (0.0, 1.0, "#5a626c", 0.0),
            (moved, width, "#4fc3f7", 2.5),
        ):
            ends = [min(max((centre + k * 1.96 * sd + 4) / 8, 0.0), 1.0) for k in (-1, 1)]
            painter.setBrush(QColor(colour))
            left, right = (box.left() + e * box.width() for e in ends)
            painter.drawRect(
                QRectF(left, box.top() + inset, max(right - left, 2.0), box.height() - 2 * inset)
            )
        painter.restore()
