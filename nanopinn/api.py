"""The main use cases on arrays: :func:`fit`, :func:`maps`, :func:`simulate` and :func:`phantom`.

Every volume may be a path, a NumPy array or torch tensor, a monai MetaTensor or a nibabel image
(:data:`nanopinn.io.array_volume.VolumeLike`). Arrays are not written to disk, and nothing is read
from disk where arrays are given. The functions below build the inputs and settings of
:func:`nanopinn.studies.fit.run_fit`, :func:`nanopinn.studies.fit.run_maps`,
:func:`nanopinn.studies.simulate.run_simulation` and
:func:`nanopinn.phantoms.synthetic_study.simulate_study`, which remain available.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel

from nanopinn.errors import InputError
from nanopinn.imaging.imaging_data import ImagingInputs, ImagingMaps
from nanopinn.io.array_volume import VolumeLike
from nanopinn.phantoms.scan_simulation import SyntheticStudy
from nanopinn.phantoms.synthetic_study import simulate_study
from nanopinn.physics.treatment import Treatment
from nanopinn.progress import Progress, ignore_progress
from nanopinn.results import FitResult, Simulation
from nanopinn.settings import FitSettings, PhantomSettings, SimulationSettings
from nanopinn.studies.fit import FittedStudy, run_fit, run_maps
from nanopinn.studies.simulate import run_simulation
from nanopinn.studies.tissue_source import MapFiles

S = TypeVar("S", bound=BaseModel)

#: Facts of the acquisition of the DCE series: argument and key of the sidecar.
ACQUISITION_ARGUMENTS = {
    "times": "VolumeTiming",
    "frame_spacing": "RepetitionTime",
    "tr": "RepetitionTimeExcitation",
    "flip_angle": "FlipAngle",
    "field_strength": "MagneticFieldStrength",
    "relaxivity": "ContrastRelaxivity",
    "hematocrit": "Hematocrit",
    "contrast_dose": "ContrastDose",
    "baseline_frames": "BaselineFrames",
    "bolus_arrival": "BolusArrivalTime",
    "units": "Units",
}

#: What :func:`simulate` takes a tumour from.
Tumour: TypeAlias = str | Path | FittedStudy | FitResult | ImagingMaps | PhantomSettings


def maps(
    dce: VolumeLike = None,
    *,
    times: Sequence[float] | None = None,
    affine: Any = None,
    device: str = "auto",
    progress: Progress = ignore_progress,
    **choices: Any,
) -> ImagingMaps:
    """Kinetic maps of a DCE-MRI series, and the pH map of a CEST scan where one is given.

    Args:
        dce: dynamic series, ``(t, x, y, z)`` as an array or tensor, ``(x, y, z, t)`` as a nibabel
            image; signal, or concentration in mM where ``units="mM"``; absent for the pH maps of
            ``cest`` alone, on its own grid.
        times: start of every frame, s, ``(t,)``.
        affine: ``(4, 4)`` voxel indices to RAS mm, of arrays without one.
        device: ``auto``, ``cpu`` or ``cuda[:N]``.
        progress: called as ``progress(stage, share done in 0..1, numbers)``.
        **choices: other facts of the acquisition (:data:`ACQUISITION_ARGUMENTS`: ``tr`` in s,
            ``flip_angle`` in degrees, ``relaxivity`` in 1/(s mM), ``bolus_arrival`` in s, ...), and
            fields of :class:`~nanopinn.imaging.imaging_data.ImagingInputs` (``mask``, ``vfa``,
            ``t1``,
            ``cest``, ``aif``, ``model``, ...).

    Returns:
        Maps ``(x, y, z)`` on the grid of the series, with every assumption.

    Raises:
        InputError: a value cannot be used, or a needed one is missing; the argument is named.
        TypeError: an argument does not exist.
    """
    with _arguments_named():
        inputs = _imaging_inputs(dce, times, affine, choices)
        return run_maps(inputs, device=device, progress=progress)


def fit(
    dce: VolumeLike,
    cest: VolumeLike = None,
    *,
    times: Sequence[float] | None = None,
    affine: Any = None,
    settings: FitSettings | None = None,
    progress: Progress = ignore_progress,
    **choices: Any,
) -> FittedStudy:
    """Fit one tumour: kinetic maps, pH, interstitial pressure, drug pools and their uncertainty.

    Args:
        dce: dynamic series, as in :func:`maps`.
        cest: pH map ``(x, y, z)`` or Z-spectra ``(o, x, y, z)``; absent with ``assume_ph``.
        times: start of every frame, s, ``(t,)``.
        affine: ``(4, 4)`` voxel indices to RAS mm, of arrays without one.
        settings: of the fit; the default settings if absent.
        progress: called as ``progress(stage, share done in 0..1, numbers)``.
        **choices: as in :func:`maps`, ``drug`` (post-dose images, each with ``TimeAfterDose``,
            ``Quantity``, ``NoiseSD`` and ``Units``), and fields of
            :class:`~nanopinn.settings.FitSettings` (``engine``, ``preset``, ``seed``, ...). Drug
            images need the ``formulation`` and ``drug_dose`` (``"5mg/kg"`` with ``species``), or a
            ``schedule``, unless their sidecars state them.

    Returns:
        The imaging maps and the checked fit.

    Raises:
        InputError: a value cannot be used, or a needed one is missing; the argument is named.
        TypeError: an argument does not exist.
    """
    of_inputs = {f.name for f in fields(ImagingInputs)}
    of_fit = {n: choices.pop(n) for n in set(FitSettings.model_fields) - of_inputs if n in choices}
    with _arguments_named():
        inputs = _imaging_inputs(dce, times, affine, {"cest": cest, **choices})
        return run_fit(inputs, _updated(settings or FitSettings(), of_fit), progress=progress)


def simulate(
    schedule: str | Path | Treatment,
    tumour: Tumour | None = None,
    *,
    ktrans: VolumeLike = None,
    ve: VolumeLike = None,
    vp: VolumeLike = None,
    mask: VolumeLike = None,
    ph: VolumeLike = None,
    affine: Any = None,
    settings: SimulationSettings | None = None,
    progress: Progress = ignore_progress,
    **choices: Any,
) -> Simulation:
    """Simulate a treatment in a tumour: every drug pool over time.

    Args:
        schedule: a schedule file, or the treatment.
        tumour: a fit, imaging maps, a result folder, or the settings of a phantom.
        ktrans: map ``(x, y, z)`` in place of ``tumour``, 1/min, or in its ``Unit``.
        ve: extravascular extracellular volume fraction ``(x, y, z)``.
        vp: plasma volume fraction ``(x, y, z)``.
        mask: tumour ``(x, y, z)``.
        ph: extracellular pH ``(x, y, z)``; absent with ``assume_ph``.
        affine: ``(4, 4)`` voxel indices to RAS mm, of arrays without one.
        settings: of the simulation; the default settings if absent.
        progress: called as ``progress(stage, share done in 0..1, numbers)``.
        **choices: fields of :class:`~nanopinn.settings.SimulationSettings`.

    Returns:
        Drug pools over time, with every assumption.

    Raises:
        InputError: not exactly one tumour is given, or a value cannot be used.
        pydantic.ValidationError: a field of the settings does not exist or is out of range.
    """
    given = {"ktrans": ktrans, "ve": ve, "vp": vp, "mask": mask}
    settings = _updated(settings or SimulationSettings(), choices)
    source: dict[str, Any]
    if all(v is None for v in (*given.values(), ph)):
        source = _tumour_argument(tumour)
    else:
        missing = [name for name, value in given.items() if value is None]
        if missing or tumour is not None:
            raise InputError(
                "a map is missing" if missing else "a tumour and maps are both given",
                field=", ".join(missing) or "tumour",
                expected="`ktrans`, `ve`, `vp` and `mask` together, or `tumour` alone",
                remedy="Give one complete source.",
            )
        source = {"maps": MapFiles(**given, ph=ph, affine=affine)}
    return run_simulation(schedule, settings=settings, progress=progress, **source)


def phantom(
    settings: PhantomSettings | None = None,
    *,
    progress: Progress = ignore_progress,
    **choices: Any,
) -> SyntheticStudy:
    """Simulate the images of a synthetic tumour with their truth, without writing anything.

    Args:
        settings: of the phantom; the default settings if absent.
        progress: called as ``progress(stage, share done in 0..1, numbers)``.
        **choices: fields of :class:`~nanopinn.settings.PhantomSettings` (``shape``, ``seed``, ...).

    Returns:
        Images and true maps as MetaTensors, which :func:`fit` and :func:`maps` accept as they are.

    Raises:
        InputError: so few voxels that none lies in the tumour.
        pydantic.ValidationError: a field of the settings does not exist or is out of range.
    """
    return simulate_study(_updated(settings or PhantomSettings(), choices), progress=progress)


def _imaging_inputs(
    dce: VolumeLike, times: Any, affine: Any, choices: dict[str, Any]
) -> ImagingInputs:
    """Inputs from arguments; facts of the acquisition become overrides of the sidecar."""
    facts = {} if times is None else {"times": times}
    facts |= {n: choices.pop(n) for n in ACQUISITION_ARGUMENTS if n in choices}
    known = {f.name for f in fields(ImagingInputs)}
    if unknown := sorted(set(choices) - known):
        hint = "; give contrast_dose or drug_dose" if "dose" in unknown else ""
        raise TypeError(f"unknown arguments: {', '.join(unknown)}{hint}")
    overrides = {ACQUISITION_ARGUMENTS[n]: v for n, v in facts.items() if v is not None}
    overrides |= dict(choices.pop("overrides", {}))
    choices |= {n: _as_tuple(choices[n]) for n in ("vfa", "ir", "drug") if n in choices}
    return ImagingInputs(dce, **choices, overrides=overrides, affine=affine)


def _as_tuple(given: Any) -> tuple[VolumeLike, ...]:
    """Several volumes as they are, and one (a pair of array and facts included) as a set of one."""
    is_pair = isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping)
    return tuple(given) if isinstance(given, (list, tuple)) and not is_pair else (given,)


def _tumour_argument(tumour: Tumour | None) -> dict[str, Any]:
    """The argument of :func:`run_simulation` that a tumour is given by."""
    if isinstance(tumour, FittedStudy):
        return {"result": tumour.fit}
    if isinstance(tumour, (FitResult, ImagingMaps)):
        return {"result": tumour}
    if isinstance(tumour, PhantomSettings):
        return {"phantom": tumour}
    return {} if tumour is None else {"folder": tumour}


def _updated(settings: S, changes: dict[str, Any]) -> S:
    """Settings with some fields replaced, validated."""
    return type(settings)(**{**dict(settings), **changes}) if changes else settings


@contextmanager
def _arguments_named() -> Iterator[None]:
    """Refusals of facts of a series in memory name the argument in place of the sidecar's key."""
    try:
        yield
    except InputError as error:
        names = _argument_names(error)
        if not names:
            raise
        listed = " or ".join(f"`{n}`" for n in names)
        raise InputError(
            error.problem,
            field=", ".join(names),
            found=error.found,
            expected=error.expected,
            remedy=f"Give {listed}." if error.found == "nothing" else f"Correct {listed}.",
        ) from error


def _argument_names(error: InputError) -> list[str]:
    """Arguments for the keys that an error about a series in memory names; empty if none."""
    if error.file != "dce" or error.field is None:
        return []
    argument = {key: name for name, key in ACQUISITION_ARGUMENTS.items()}
    return [argument[key] for key in error.field.split(", ") if key in argument]
