"""The Study tab: what is given to the work, each field with what is missing in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QGroupBox, QLineEdit, QVBoxLayout, QWidget

from nanopinn.errors import InputError
from nanopinn.napari_plugin import input_checks as checks
from nanopinn.napari_plugin.input_boxes import MessageLabel, SourceBox, SourceList
from nanopinn.napari_plugin.sources import export_to_file, plugin_metadata

if TYPE_CHECKING:
    import napari

#: Keys of the sidecar that may be typed over it: label, key, hint.
OVERRIDES = (
    ("Frame spacing (s)", "RepetitionTime"),
    ("TR (s)", "RepetitionTimeExcitation"),
    ("Flip angle (degrees)", "FlipAngle"),
    ("Relaxivity (1/(s mM))", "ContrastRelaxivity"),
)
AIF_CHOICES = ("parker", "georgiou", "weinmann", "preclinical", "auto")


class StudyTab(QWidget):
    """Fields of one study."""

    changed = Signal()

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        self.dce = SourceBox(viewer, "choose a series", "dce")
        self.ph = SourceBox(viewer, "none", "ph", "cest")
        self.tumour = SourceBox(viewer, "automatic", "mask")
        self.vfa, self.drug = SourceList(viewer, "vfa"), SourceList(viewer, "drug")
        self.aif = QComboBox()
        self.aif.addItems(AIF_CHOICES)
        self.assumed_ph, self.t1 = QLineEdit(), QLineEdit()
        self.assumed_ph.setPlaceholderText("where none was measured, as 6.9")
        self.t1.setPlaceholderText("s, in place of a flip-angle set, as 1.4")
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
        for label, field, said in (
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
            if said:
                form.addRow(self.messages[said])
        whole.addLayout(form)
        group = QGroupBox("Typed over the scan's JSON")
        over = QFormLayout(group)
        for label, key in OVERRIDES:
            self.overrides[key].setPlaceholderText("as in the JSON beside the series")
            over.addRow(label, self.overrides[key])
        whole.addWidget(group)
        whole.addStretch()

    def refresh(self, event: Any = None) -> None:
        """Take up layers that came and went; those of results are no inputs."""
        if event is not None and "folder" in plugin_metadata(event.value):
            return
        for box in (self.dce, self.ph, self.tumour, self.vfa, self.drug):
            box.blockSignals(True)
            box.refresh()
            box.blockSignals(False)
        self.update_messages()

    def update_messages(self) -> None:
        """Say beside each field what is missing."""
        series = self.dce.source()
        found = {
            "dce": checks.dce(series, self._numbers()),
            "ph": checks.ph(self.ph.source(), self.assumed_ph.text()),
            "mask": checks.mask(
                self.tumour.source(),
                series if series and len(checks.shape_of(series)) == 4 else None,
            ),
            "t1": checks.t1(self.vfa.sources(), self.t1.text()),
            "drug": checks.volumes(self.drug.sources(), "drug images", "TimeAfterDose"),
        }
        for name, verdict in found.items():
            self.messages[name].show_check(verdict)
        self.problems = [v.message for v in found.values() if not v.usable]
        self.changed.emit()

    def _numbers(self) -> dict[str, float]:
        typed = {}
        for key, line in self.overrides.items():
            try:
                typed[key] = float(line.text())
            except ValueError:
                continue
        return typed

    def inputs(self, folder: Path) -> dict[str, Any]:
        """Arguments of :class:`nanopinn.ImagingInputs`, layers without a file written into
        ``folder``.

        Raises:
            InputError: something is missing or cannot be used; the first of them.
            OutputError: a layer cannot be written.
        """
        if self.problems:
            raise InputError(self.problems[0].rstrip("."), remedy="See the Study tab.")
        series = self.dce.source()
        assert series is not None
        given: dict[str, Any] = {"dce": str(export_to_file(series, folder))}
        for name, box in (("cest", self.ph), ("mask", self.tumour)):
            source = box.source()
            if source is not None:
                given[name] = str(export_to_file(source, folder, series.layer))
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
            | {"aif": self.aif.currentText()}
            | ({"overrides": self._numbers()} if self._numbers() else {})
        )

    def drug_files(self, folder: Path) -> list[str]:
        """Files of the drug images."""
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
