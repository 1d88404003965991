"""The Study tab: the inputs of a study, each with a message about what is missing.

An input is an open layer or a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFormLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from nanopinn.errors import InputError
from nanopinn.napari_plugin import input_checks as checks
from nanopinn.napari_plugin.sources import LayerOrFile, export_to_file, plugin_metadata

if TYPE_CHECKING:
    import napari

_FILES = "NIfTI (*.nii *.nii.gz);;All files (*)"
_FROM_DISK = "File..."
#: Label and sidecar key of the values that may be entered in place of those of the sidecar.
OVERRIDES = (
    ("Frame spacing (s)", "RepetitionTime"),
    ("TR (s)", "RepetitionTimeExcitation"),
    ("Flip angle (degrees)", "FlipAngle"),
    ("Relaxivity (1/(s mM))", "ContrastRelaxivity"),
)
AIF_CHOICES = ("parker", "georgiou", "weinmann", "preclinical", "auto")


def selectable_layers(viewer: napari.Viewer) -> list[Any]:
    """Layers that may be chosen as inputs: images and labels that are not results."""
    return [
        x
        for x in viewer.layers
        if x._type_string in ("image", "labels") and "folder" not in plugin_metadata(x)
    ]


class SourceBox(QComboBox):
    """Drop-down list of the open layers and of files, with an empty choice and a file dialog."""

    changed = Signal()

    def __init__(self, viewer: napari.Viewer, empty_label: str, *roles: str) -> None:
        super().__init__()
        self.viewer, self.empty_label, self.roles = viewer, empty_label, roles
        self.files: list[Path] = []
        self.user_chose = (
            False  # the choice of the user is not replaced by a layer of the same role
        )
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.activated.connect(self._chosen)
        self.refresh()

    def source(self) -> LayerOrFile | None:
        """The chosen input."""
        found = self.currentData()
        return found if isinstance(found, LayerOrFile) else None

    def refresh(self) -> None:
        """List the open layers and the files; keep the choice if it still exists.

        Without a choice of the user, a layer with a role of this box is chosen.
        """
        before = self.source()
        options = [LayerOrFile(layer) for layer in selectable_layers(self.viewer)] + [
            LayerOrFile(file=f) for f in self.files
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

    def choose(self, source: LayerOrFile | None) -> None:
        """Choose an input as the user does."""
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
        self.choose(LayerOrFile(file=Path(name)) if name else None)


class SourceList(QWidget):
    """List of several volumes: open layers and files, each with a check box."""

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

    def sources(self) -> list[LayerOrFile]:
        """The checked inputs."""
        items = [self.list.item(i) for i in range(self.list.count())]
        return [
            i.data(Qt.ItemDataRole.UserRole)
            for i in items
            if i is not None and i.checkState() == Qt.CheckState.Checked
        ]

    def refresh(self) -> None:
        """List the open layers and the files; a new layer with the role of the list is checked."""
        items = [self.list.item(i) for i in range(self.list.count())]
        checked = {i.data(Qt.ItemDataRole.UserRole): i.checkState() for i in items if i is not None}
        files = [s for s in checked if s.file is not None]
        self.list.blockSignals(True)
        self.list.clear()
        open_now = [
            LayerOrFile(x)
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
        """Add files, and check them."""
        for path in paths:
            self._append(LayerOrFile(file=path), Qt.CheckState.Checked)
        self.changed.emit()

    def _append(self, source: LayerOrFile, state: Qt.CheckState) -> None:
        item = QListWidgetItem(source.name)
        item.setData(Qt.ItemDataRole.UserRole, source)
        item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
        item.setCheckState(state)
        self.list.addItem(item)

    def _add(self) -> None:
        names, _ = QFileDialog.getOpenFileNames(self, f"Choose files: {self.role}", "", _FILES)
        self.add_files([Path(n) for n in names])


class MessageLabel(QLabel):
    """Message below a field: grey if the input can be used, amber if not."""

    def __init__(self) -> None:
        super().__init__()
        self.setWordWrap(True)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)

    def show_check(self, check: checks.InputCheck) -> None:
        self.setText(check.message)
        self.setStyleSheet(
            "font-size: 11px; color: %s;" % ("#9aa4b0" if check.usable else "#ffb74d")
        )
        self.setVisible(bool(check.message))

    def showEvent(self, event: QShowEvent) -> None:  # Qt's own name
        super().showEvent(event)
        self.setVisible(bool(self.text()))


class StudyTab(QWidget):
    """The inputs of one study."""

    changed = Signal()

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        self.dce = SourceBox(viewer, "choose a series", "dce")
        self.ph = SourceBox(viewer, "none", "ph", "cest")
        self.tumour = SourceBox(viewer, "automatic", "mask")
        self.vfa, self.drug = SourceList(viewer, "vfa"), SourceList(viewer, "drug")
        self.aif = QComboBox()
        self.aif.addItem("of the species", None)
        for name in AIF_CHOICES:
            self.aif.addItem(name, name)
        self.assumed_ph, self.t1 = QLineEdit(), QLineEdit()
        self.assumed_ph.setPlaceholderText("if no pH was measured, such as 6.9")
        self.t1.setPlaceholderText("s, without a flip-angle set, such as 1.4")
        self.overrides = {key: QLineEdit() for _, key in OVERRIDES}
        self.messages = {name: MessageLabel() for name in ("dce", "ph", "mask", "t1", "drug")}
        self._build_layout()
        for box in (self.dce, self.ph, self.tumour, self.vfa, self.drug):
            box.changed.connect(self.update_messages)
        for line in (self.assumed_ph, self.t1, *self.overrides.values()):
            line.textChanged.connect(self.update_messages)
        viewer.layers.events.inserted.connect(self.refresh)
        viewer.layers.events.removed.connect(self.refresh)
        self.update_messages()

    def _build_layout(self) -> None:
        whole = QVBoxLayout(self)
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for label, field, message in (
            ("&DCE series", self.dce, "dce"),
            ("p&H or CEST", self.ph, "ph"),
            ("Assumed pH", self.assumed_ph, None),
            ("Mas&k", self.tumour, "mask"),
            ("Flip-&angle set", self.vfa, None),
            ("T1", self.t1, "t1"),
            ("Dru&g images", self.drug, "drug"),
            ("Arterial &input", self.aif, None),
        ):
            form.addRow(label, field)
            if message:
                form.addRow(self.messages[message])
        whole.addLayout(form)
        group = QGroupBox("Values in place of the JSON sidecar")
        over = QFormLayout(group)
        for label, key in OVERRIDES:
            self.overrides[key].setPlaceholderText("as in the JSON sidecar of the series")
            over.addRow(label, self.overrides[key])
        whole.addWidget(group)
        whole.addStretch()

    def refresh(self, event: Any = None) -> None:
        """List the layers again after one was added or removed; results are ignored."""
        if event is not None and "folder" in plugin_metadata(event.value):
            return
        for box in (self.dce, self.ph, self.tumour, self.vfa, self.drug):
            box.blockSignals(True)
            box.refresh()
            box.blockSignals(False)
        self.update_messages()

    def update_messages(self) -> None:
        """Show below each field what is missing."""
        series = self.dce.source()
        found = {
            "dce": checks.PH_WITHOUT_SERIES
            if series is None and self.ph.source() is not None
            else checks.check_series(series, self._numbers()),
            "ph": checks.check_ph(self.ph.source(), self.assumed_ph.text()),
            "mask": checks.check_mask(
                self.tumour.source(),
                series if series and len(checks.shape_of(series)) == 4 else None,
            ),
            "t1": checks.check_t1(self.vfa.sources(), self.t1.text()),
            "drug": checks.check_volumes(self.drug.sources(), "drug images", "TimeAfterDose"),
        }
        for name, check in found.items():
            self.messages[name].show_check(check)
        self.problems = {name: v.message for name, v in found.items() if not v.usable}
        self.changed.emit()

    def _numbers(self) -> dict[str, float]:
        typed = {}
        for key, line in self.overrides.items():
            try:
                typed[key] = float(line.text())
            except ValueError:
                continue
        return typed

    def inputs(self, folder: Path, *, needs_series: bool = True) -> dict[str, Any]:
        """Arguments of :class:`nanopinn.ImagingInputs`; layers without a file are written.

        Args:
            folder: Folder for the files of layers.
            needs_series: Whether the DCE series is needed; if not, and there is a pH alone, the
                arguments are those of the pH maps.

        Raises:
            InputError: An input is missing or cannot be used; the first of them.
            OutputError: A layer cannot be written.
        """
        series = self.dce.source()
        ph_alone = not needs_series and series is None and self.ph.source() is not None
        problems = [m for name, m in self.problems.items() if not (ph_alone and name == "dce")]
        if problems:
            raise InputError(problems[0].rstrip("."), remedy="See the Study tab.")
        given: dict[str, Any] = {}
        if series is not None:
            given["dce"] = str(export_to_file(series, folder))
        for name, box in (("cest", self.ph), ("mask", self.tumour)):
            source = box.source()
            if source is not None:
                like = None if series is None else series.layer
                given[name] = str(export_to_file(source, folder, like))
        if series is None:
            return given
        if self.vfa.sources():
            given["vfa"] = [
                str(export_to_file(s, folder, series.layer)) for s in self.vfa.sources()
            ]
        elif self.t1.text().strip():
            given["t1"] = float(self.t1.text())
        if self.assumed_ph.text().strip() and "cest" not in given:
            given["assume_ph"] = _number(self.assumed_ph.text(), "'Assumed pH'")
        return (
            given
            | ({"aif": chosen} if (chosen := self.aif.currentData()) else {})
            | ({"overrides": self._numbers()} if self._numbers() else {})
        )

    def drug_files(self, folder: Path) -> list[str]:
        """Files of the drug images; layers without a file are written into ``folder``."""
        series = self.dce.source()
        return [
            str(export_to_file(s, folder, series.layer if series else None))
            for s in self.drug.sources()
        ]


def _number(text: str, field: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError("not a number", field=field, found=text, expected="a number") from error
