"""Choosing inputs: drop-downs of open layers and files, and lists of several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QSizePolicy,
    QWidget,
)

from nanopinn.napari_plugin.input_checks import InputCheck
from nanopinn.napari_plugin.sources import Source, plugin_metadata

if TYPE_CHECKING:
    import napari

_FILES = "NIfTI (*.nii *.nii.gz);;All files (*)"
_FROM_DISK = "File..."


def selectable_layers(viewer: napari.Viewer) -> list[Any]:
    """Layers that may be chosen: images and labels that are no results of ours."""
    return [
        x
        for x in viewer.layers
        if x._type_string in ("image", "labels") and "folder" not in plugin_metadata(x)
    ]


class SourceBox(QComboBox):
    """A drop-down of nothing, the open layers, files chosen before, and a file dialog."""

    changed = Signal()

    def __init__(self, viewer: napari.Viewer, empty_label: str, *roles: str) -> None:
        super().__init__()
        self.viewer, self.empty_label, self.roles = viewer, empty_label, roles
        self.files: list[Path] = []
        self.user_chose = False  # the user has chosen, so a guess no longer replaces it
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.activated.connect(self._chosen)
        self.refresh()

    def source(self) -> Source | None:
        """What is chosen."""
        found = self.currentData()
        return found if isinstance(found, Source) else None

    def refresh(self) -> None:
        """List what is open now; a choice stays as long as it is there, and an input that plays
        this part is taken by itself.
        """
        before = self.source()
        options = [Source(layer) for layer in selectable_layers(self.viewer)] + [
            Source(file=f) for f in self.files
        ]
        self.blockSignals(True)
        self.clear()
        self.addItem(self.empty_label, None)
        for option in options:
            self.addItem(option.name, option)
        self.addItem(_FROM_DISK, _FROM_DISK)
        kept = before if before in options else None
        if kept is None and not self.user_chose:
            kept = next(
                (
                    o
                    for role in self.roles
                    for o in options
                    if plugin_metadata(o.layer).get("role") == role
                ),
                None,
            )
        self.setCurrentIndex(0 if kept is None else 1 + options.index(kept))
        self.blockSignals(False)
        self.changed.emit()

    def choose(self, source: Source | None) -> None:
        """Choose as the user would."""
        if source is not None and source.file is not None and source.file not in self.files:
            self.files.append(source.file)
        self.user_chose = True
        self.refresh()
        index = next((i for i in range(self.count()) if self.itemData(i) == source), 0)
        self.setCurrentIndex(index)
        self.changed.emit()

    def _chosen(self, index: int) -> None:
        self.user_chose = True
        if self.itemData(index) != _FROM_DISK:
            self.changed.emit()
            return
        name, _ = QFileDialog.getOpenFileName(self, f"Choose a file: {self.roles[0]}", "", _FILES)
        self.choose(Source(file=Path(name)) if name else None)


class SourceList(QWidget):
    """Several volumes: open layers to be checked, and files to be added."""

    changed = Signal()

    def __init__(self, viewer: napari.Viewer, role: str) -> None:
        super().__init__()
        self.viewer, self.role = viewer, role
        self.list = QListWidget()
        self.list.setMaximumHeight(58)
        self.list.setAccessibleName(role)
        add = QPushButton("Files...")
        add.clicked.connect(self._add)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.list, 1)
        row.addWidget(add, 0, Qt.AlignmentFlag.AlignTop)
        self.known: dict[Any, bool] = {}
        self.list.itemChanged.connect(lambda _: self.changed.emit())
        self.refresh()

    def sources(self) -> list[Source]:
        """What is checked."""
        items = [self.list.item(i) for i in range(self.list.count())]
        return [
            i.data(Qt.ItemDataRole.UserRole)
            for i in items
            if i is not None and i.checkState() == Qt.CheckState.Checked
        ]

    def refresh(self) -> None:
        """List what is open now; what plays this part is checked by itself the first time it is
        seen.
        """
        items = [self.list.item(i) for i in range(self.list.count())]
        checked = {i.data(Qt.ItemDataRole.UserRole): i.checkState() for i in items if i is not None}
        files = [s for s in checked if s.file is not None]
        self.list.blockSignals(True)
        self.list.clear()
        open_now = [
            Source(x)
            for x in selectable_layers(self.viewer)
            if x._type_string == "image" and x.ndim == 3
        ]
        for source in (
            sorted(open_now, key=lambda s: plugin_metadata(s.layer).get("role") != self.role)
            + files
        ):
            fits = source.file is not None or plugin_metadata(source.layer).get("role") == self.role
            self._append(
                source,
                checked.get(source, Qt.CheckState.Checked if fits else Qt.CheckState.Unchecked),
            )
        self.list.blockSignals(False)
        self.changed.emit()

    def add_files(self, paths: list[Path]) -> None:
        """Add files, checked."""
        for path in paths:
            self._append(Source(file=path), Qt.CheckState.Checked)
        self.changed.emit()

    def _append(self, source: Source, state: Qt.CheckState) -> None:
        item = QListWidgetItem(source.name)
        item.setData(Qt.ItemDataRole.UserRole, source)
        item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
        item.setCheckState(state)
        self.list.addItem(item)

    def _add(self) -> None:
        names, _ = QFileDialog.getOpenFileNames(self, f"Choose files: {self.role}", "", _FILES)
        self.add_files([Path(n) for n in names])


class MessageLabel(QLabel):
    """A line of words below a field: quiet when all is well, amber when something is missing."""

    def __init__(self) -> None:
        super().__init__()
        self.setWordWrap(True)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)

    def show_check(self, verdict: InputCheck) -> None:
        self.setText(verdict.message)
        self.setStyleSheet(
            "font-size: 11px; color: %s;" % ("#9aa4b0" if verdict.usable else "#ffb74d")
        )
        self.setVisible(bool(verdict.message))

    def showEvent(self, event: QShowEvent) -> None:  # Qt's own name
        super().showEvent(event)
        self.setVisible(bool(self.text()))
