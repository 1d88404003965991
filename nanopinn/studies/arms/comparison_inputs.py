"""Inputs of a comparison: the tumour, the arms, stated values and the effect of radiation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nanopinn.errors import InputError
from nanopinn.inference.radiation_effect import RadiationEffect
from nanopinn.inference.saved_fit import fit_file_path
from nanopinn.physics.treatment import Treatment
from nanopinn.settings import ComparisonSettings, PhantomSettings, SecondScan
from nanopinn.studies.arms.arm_specs import Arm, arms_from_settings, arms_with_measured_plasma
from nanopinn.studies.arms.patient import Patient
from nanopinn.studies.arms.radiotherapy import estimate_radiation_effect
from nanopinn.studies.simulation_parameters import StatedValues, read_stated_values
from nanopinn.studies.tissue_source import MapFiles, tissue_from_files, tissue_from_result_folder


def read_comparison_inputs(
    settings: ComparisonSettings,
    schedule: Path | None,
    device: str,
    *,
    folder: str | Path | None = None,
    phantom: PhantomSettings | None = None,
    maps: MapFiles | None = None,
) -> tuple[Patient, tuple[Arm, ...], StatedValues, tuple[str, ...]]:
    """Read the tumour and the arms of a comparison.

    The subject is that of the fit where the settings state none.

    Args:
        settings: of the comparison.
        schedule: file of the treatment, in place of that of the settings.
        device: of the tensors.
        folder: result folder of a fit or of imaging maps. Exactly one of this, ``phantom`` and
            ``maps`` is given.
        phantom: settings of the digital phantom.
        maps: maps as files or arrays.

    Returns:
        The tumour with stated scalars, the arms, all stated values, and assumptions.

    Raises:
        InputError: not exactly one tumour is given, or an input cannot be used.
    """
    patient = _read_patient(settings, device, folder, phantom, maps)
    notes: tuple[str, ...] = ()
    if patient.imaged is not None:
        settings, notes = with_imaged_subject(settings, schedule, patient.imaged)
    arms, of_arms = arms_from_settings(settings, schedule)
    arms, of_plasma = arms_with_measured_plasma(arms, patient.imaged)
    arms = tuple(_as_imaged(a, patient.imaged_formulation) for a in arms)
    stated = read_stated_values(settings.values, [a.treatment for a in arms], microscale=True)
    return patient.with_stated_scalars(stated), arms, stated, (*of_arms, *notes, *of_plasma)


def _read_patient(
    settings: ComparisonSettings,
    device: str,
    folder: str | Path | None,
    phantom: PhantomSettings | None,
    maps: MapFiles | None,
) -> Patient:
    given = [n for n, s in (("folder", folder), ("phantom", phantom), ("maps", maps)) if s]
    if len(given) != 1:
        raise InputError(
            "a comparison needs one tumour",
            field=", ".join(given) or "folder",
            found=f"{len(given)} sources",
            expected="one of `folder`, `phantom` and `maps`",
            remedy="Fit a scan first: its result folder is what `folder` takes. Without a fit give"
            " a folder of maps, or maps of Ktrans, ve, vp, pH and the mask.",
        )
    if phantom is not None:
        known = settings.draws == 0
        return Patient.from_phantom(phantom, device, scalars_are_known=known)
    if maps is not None:
        tissue = tissue_from_files(maps, settings.assume_ph, device)
        return Patient(tissue, flow_refine=settings.refine)
    assert folder is not None
    has_estimates = (Path(folder) / "parameters.json").is_file()
    if not fit_file_path(folder).is_file() and (settings.draws == 0 or not has_estimates):
        tissue = tissue_from_result_folder(Path(folder), settings.assume_ph, device)
        return Patient(tissue, flow_refine=settings.refine)
    return Patient.from_result_folder(folder, device)


def with_imaged_subject(
    settings: ComparisonSettings, schedule: Path | None, imaged: Treatment
) -> tuple[ComparisonSettings, tuple[str, ...]]:
    """The settings with the subject of the fit where they state none.

    Args:
        settings: of the comparison.
        schedule: file of the treatment, which states the subject where it is given.
        imaged: treatment that the drug images of the fit showed.

    Returns:
        The settings, and what is assumed.
    """
    subject, name = imaged.subject, imaged.subject.species.name
    if schedule is not None:
        return settings, ()
    stated = (settings.species or name).strip().lower()
    if stated != name:
        return settings, (
            f"The tumour was fitted in a {name}; plasma kinetics of the arms are those of a"
            f" {stated}.",
        )
    found: dict[str, object] = {"species": name}
    if settings.body_weight_kg is None and subject.weight_is_stated:
        found["body_weight_kg"] = subject.weight_kg
    if settings.body_surface_m2 is None and subject.surface_is_stated:
        found["body_surface_m2"] = subject.surface_m2
    return settings.model_copy(update=found), (
        f"The subject is that of the fit, a {name} of {subject.weight_kg:.3g} kg.",
    )


def _as_imaged(arm: Arm, imaged_formulation: str | None) -> Arm:
    """The arm with the scalars of the fit in place of the stated quantities of its carrier, if it
    has the formulation that was imaged.
    """
    doses = tuple(
        replace(g, formulation=g.formulation.as_fitted()[0])
        if g.formulation.name == imaged_formulation
        else g
        for g in arm.treatment.doses
    )
    return Arm(arm.name, replace(arm.treatment, doses=doses))


def radiation_effect_of_scans(
    second: SecondScan | None, before: str | Path | None, arms: Sequence[Arm]
) -> RadiationEffect | None:
    """Effect of radiation from the fits before and after it.

    Args:
        second: fit after radiation; None without one.
        before: result folder of the fit before radiation.
        arms: treatments.

    Raises:
        InputError: there is no fit before it or no radiation, or as
            :func:`nanopinn.studies.arms.radiotherapy.estimate_radiation_effect`.
    """
    if second is None:
        return None
    fractions = arms[0].treatment.radiation.fractions
    if before is None or not fractions:
        raise InputError(
            "the effect of radiation needs a fit before it, and the radiation",
            field="radiation_from",
            found=str(second.folder),
            expected="`folder`, the fit before it, and `radiation`",
        )
    return estimate_radiation_effect(
        before, second.folder, scan_h=second.time_h, fractions=fractions
    )
