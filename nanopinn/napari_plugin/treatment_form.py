"""Fields of the drug and the subject, which a fit of drug images needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFormLayout,
    QGroupBox,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QWidget,
)

from nanopinn.errors import InputError

_UNSTATED = "as in the sidecars"
FORMULATION_NAMES = ("free", "pld", "tsl", "ph")
SPECIES_NAMES = ("human", "mouse", "rat")
#: Label, setting and hint of the fields of text.
_TEXTS = (
    ("Drug dose", "drug_dose", "5mg/kg, 50mg/m2 or 0.1mg"),
    ("Body weight (kg)", "body_weight_kg", "typical of the species"),
    ("Infusion (min)", "infusion_min", "a bolus"),
)
#: Label, setting, hint and files of the fields of files.
_FILES = (
    ("Schedule", "schedule", "in place of these fields", "Schedules (*.toml)"),
    ("Plasma", "plasma", "the population's curve", "Tables (*.tsv *.csv)"),
)
_NUMBERS = {"body_weight_kg": "'Body weight'", "infusion_min": "'Infusion'"}


class FileField(QWidget):
    """A line with the path of a file, and a button that opens the dialog to choose it."""

    def __init__(self, hint: str, pattern: str) -> None:
        super().__init__()
        self.line, self.pattern = QLineEdit(), pattern
        self.line.setPlaceholderText(hint)
        button = QPushButton("File...")
        button.clicked.connect(self._choose)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.line, 1)
        row.addWidget(button)

    def _choose(self) -> None:
        name, _ = QFileDialog.getOpenFileName(
            self, "Choose a file", "", f"{self.pattern};;All files (*)"
        )
        if name:
            self.line.setText(name)


class SpeciesBox(QComboBox):
    """Drop-down list of the species with a first entry for none.

    Args:
        unstated: text of the first entry.
    """

    def __init__(self, unstated: str) -> None:
        super().__init__()
        self.addItem(unstated, None)
        for name in SPECIES_NAMES:
            self.addItem(name, name)
        self.setAccessibleName("species")


class TreatmentForm(QGroupBox):
    """Formulation, dose, subject, schedule and measured plasma of a study."""

    def __init__(self) -> None:
        super().__init__("Drug and subject, for drug images")
        form = QFormLayout(self)
        self.formulation, self.species = QComboBox(), SpeciesBox(_UNSTATED)
        # a formulation may also be a file of the user
        self.formulation.setEditable(True)
        self.formulation.addItems(["", *FORMULATION_NAMES])
        line = self.formulation.lineEdit()
        assert line is not None
        line.setPlaceholderText(f"{_UNSTATED}; or a TOML file")
        form.addRow("Formulation", self.formulation)
        form.addRow("Species", self.species)
        self.texts: dict[str, QLineEdit] = {}
        for label, name, hint in _TEXTS:
            self.texts[name] = QLineEdit()
            self.texts[name].setPlaceholderText(hint)
            form.addRow(label, self.texts[name])
        self.files: dict[str, FileField] = {}
        for label, name, hint, pattern in _FILES:
            self.files[name] = FileField(hint, pattern)
            form.addRow(label, self.files[name])

    def settings(self) -> dict[str, Any]:
        """Fields of :class:`nanopinn.settings.StudySettings` that are filled in.

        Raises:
            InputError: A field is no number.
        """
        given: dict[str, Any] = {
            "formulation": self.formulation.currentText().strip(),
            "species": self.species.currentData(),
        }
        for name, line in self.texts.items():
            text = line.text().strip()
            given[name] = parse_number(text, _NUMBERS[name]) if name in _NUMBERS else text
        for name, field in self.files.items():
            text = field.line.text().strip()
            given[name] = str(Path(text).expanduser()) if text else ""
        return {name: value for name, value in given.items() if value not in (None, "")}


def parse_number(text: str, label: str) -> float | None:
    """The number of a field; None where it is empty.

    Args:
        text: of the field.
        label: of the field, in errors.

    Raises:
        InputError: The text is no number.
    """
    try:
        return float(text) if text else None
    except ValueError as error:
        raise InputError("not a number", field=label, found=text, expected="a number") from error
