"""The drug and the subject in the forms of the fit and of the arms."""

from __future__ import annotations

from typing import Any

import napari

from nanopinn import ComparisonSettings, FitSettings
from nanopinn.settings import DoseAmount

from .conftest import words


def test_empty_fields_leave_the_treatment_to_the_sidecars(panel: Any) -> None:
    settings = FitSettings(**panel.fit.settings())
    assert (settings.formulation, settings.drug_dose, settings.species) == (None, None, None)


def test_fields_of_the_drug_are_settings_of_the_fit(panel: Any) -> None:
    form = panel.fit.treatment
    form.formulation.setCurrentText("pld")
    form.species.setCurrentIndex(form.species.findData("mouse"))
    form.texts["drug_dose"].setText(" 5 mg/kg ")
    form.texts["body_weight_kg"].setText("0.021")
    form.files["plasma"].line.setText("plasma.tsv")
    settings = FitSettings(**panel.fit.settings())
    assert (settings.formulation, settings.species) == ("pld", "mouse")
    assert settings.drug_dose == DoseAmount(mg_per_kg=5.0)
    assert settings.body_weight_kg == 0.021
    assert settings.plasma is not None
    assert settings.schedule is None


def test_a_weight_that_is_no_number_is_reported(
    viewer: napari.Viewer, panel: Any, said: list[Any]
) -> None:
    panel.fit.treatment.texts["body_weight_kg"].setText("20 g")
    panel.fit.button.click()
    panel.therapy.weight.setText("heavy")
    panel.therapy.button.click()
    assert "20 g" in words(said)
    assert "heavy" in words(said)
    assert "'Body weight'" in words(said)
    assert panel.worker.running is None


def test_species_of_the_arms_is_that_of_the_fit_unless_chosen(panel: Any) -> None:
    assert ComparisonSettings(**_plain(panel)).species is None
    box = panel.therapy.species
    box.setCurrentIndex(box.findData("mouse"))
    panel.therapy.fields["dose"].setText("5mg/kg")
    settings = ComparisonSettings(**_plain(panel))
    assert (settings.species, settings.dose) == ("mouse", DoseAmount(mg_per_kg=5.0))


def _plain(panel: Any) -> dict[str, Any]:
    return {n: v for n, v in panel.therapy.settings().items() if n not in ("heat", "radiation")}
