"""How much each post-dose image is worth: the same tumour fitted without any, with the first, with
the first two, and so on.

An outcome is worked out over the same draws of everything else each time, so that only what the
images say of the tumour differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.drug_image import DrugImage
from nanopinn.imaging.inputs import ImagingInputs
from nanopinn.imaging.parametric_maps import ImagingMaps
from nanopinn.imaging.pipeline import make_maps
from nanopinn.inference.device import choose_device
from nanopinn.inference.fitted_problem import FittedProblem
from nanopinn.inference.fv_engine import fit_fv
from nanopinn.inference.pose import load_drug_images, pose_problem_from_images
from nanopinn.inference.uncertainty.identifiability import validate_problem
from nanopinn.parameters.units import HOUR
from nanopinn.progress import Progress, ignore_progress
from nanopinn.settings import FitSettings
from nanopinn.studies.arms.draws import InputDraws, Patient, draw_inputs

if TYPE_CHECKING:
    from nanopinn.studies.arms.arm_specs import Arm

Array = NDArray[np.float64]

#: A positive number for every draw, ``(draw,)``, of a patient.
OutcomeFunction = Callable[[Patient, InputDraws], Array]


@dataclass(frozen=True)
class ImagingStage:
    """The outcome under what is known of the tumour at one stage.

    Attributes:
        name: what was seen. images: how many were.
        median: of all inputs at their medians. low, high: central 95 % of the draws, in the
            outcome's unit.
        sd: of the outcome's natural logarithm over the draws.
        informed: unknowns that the images set, rather than the prior.
    """

    name: str
    images: int
    median: float
    low: float
    high: float
    sd: float
    informed: tuple[str, ...] = ()


@dataclass(frozen=True)
class MinimalImaging:
    """How the spread of an outcome shrinks from the prior to no, one and more images, and what
    would be left if they said everything.

    Attributes:
        outcome, unit: what it is of. stages: the prior first. left: with every unknown of the
            tumour known exactly.
        draws: how many. assumptions: one sentence each.
    """

    outcome: str
    unit: str
    stages: tuple[ImagingStage, ...]
    remaining: ImagingStage
    draws: int
    assumptions: tuple[str, ...]

    def summary(self) -> str:
        """A row per stage."""
        head = f"{self.outcome}, {self.unit}" if self.unit != "1" else self.outcome
        lines = [f"{head:40s}{'images':>8s}{'median':>12s}{'95 %':>26s}{'sd of ln':>10s}  informed"]
        for w in (*self.stages, self.remaining):
            interval, informed_names = f"{w.low:.3g} .. {w.high:.3g}", ", ".join(w.informed) or "-"
            lines.append(
                f"{w.name:40s}{w.images:8d}{w.median:12.4g}{interval:>26s}{w.sd:10.3f} "
                f" {informed_names}"
            )
        return "\n".join([*lines, self.describe()])

    def table(self) -> list[dict[str, object]]:
        """A row per stage, as a file holds it."""
        return [
            {
                "known": w.name,
                "images": w.images,
                "median": w.median,
                "low_95": w.low,
                "high_95": w.high,
                "sd_of_ln": w.sd,
                "informed": ", ".join(w.informed),
            }
            for w in (*self.stages, self.remaining)
        ]

    def describe(self) -> str:
        """What the images took away of the spread."""
        first, last = self.stages[0], self.stages[-1]
        more = "; ".join(
            f"{b.name}: {1 - b.sd / a.sd:.0%} less than {a.name}"
            for a, b in zip(self.stages[:-1], self.stages[1:], strict=True)
        )
        return (
            f"The sd of ln({self.outcome}) falls from {first.sd:.2f} ({first.name}) to"
            f" {last.sd:.2f} ({last.name}): {more}. {self.remaining.sd:.2f} of it rests on what no"
            " image of this tumour tells."
        )

    def __repr__(self) -> str:
        return f"MinimalImaging({self.describe()})"


def outcome_uncertainty_by_images(
    inputs: ImagingInputs,
    settings: FitSettings,
    arms: Sequence[Arm],
    outcome: OutcomeFunction,
    *,
    name: str,
    unit: str = "1",
    draws: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
) -> MinimalImaging:
    """Fit a tumour with none, one and more of its post-dose images, and see how sure each makes an
    outcome.

    Images of one time count as one: they are made together. Fits are by the engine ``fv``.

    Args:
        settings: of the fits; ``drug`` holds the images. arms: that the outcome is of.
        outcome: of a patient and draws, positive.

    Raises:
        InputError: there is no image, something given cannot be used, or there are too few draws
            for a spread.
    """
    if draws < 10:
        raise InputError(
            "too few draws for a spread", field="draws", found=draws, expected="10 or more"
        )
    if not (settings.drug or inputs.drug):
        raise InputError(
            "there is no post-dose image",
            field="--drug",
            expected="one or more, at one or more times",
        )
    if any(f.endswith(":neural") for f in settings.field):
        raise InputError(
            "neural fields are not fitted here",
            field="--field",
            found=", ".join(settings.field),
            expected="bumps",
        )
    show = progress or ignore_progress
    imaging = make_maps(inputs, progress=show)
    by_time = _group_by_time(load_drug_images(imaging, settings, inputs.drug))
    patients = fit_sequentially(imaging, by_time, settings, show)
    imaging_stages = [
        _evaluate_stage(
            "prior", 0, patients[0].with_prior_uncertainty(), (), arms, outcome, draws, seed
        )
    ]
    for k, patient in enumerate(patients):
        seen = " + ".join(f"{s[0].time_s / HOUR:g} h" for s in by_time[:k])
        label = f"before the dose, and {seen} after" if k else "before the dose alone"
        imaging_stages.append(
            _evaluate_stage(label, k, patient, _informed(patient), arms, outcome, draws, seed)
        )
    known = replace(patients[-1], covariance=np.zeros_like(patients[-1].covariance))
    remaining = _evaluate_stage(
        "if every unknown of the fit were known",
        len(by_time),
        known,
        known.names,
        arms,
        outcome,
        draws,
        seed,
    )
    remaining = replace(remaining, informed=())
    notes = (
        (
            "Images of one time are one session. Each fit starts from the one before it, and its"
            " posterior is Laplace's."
        ),
        (
            f"The same {draws} draws of all other inputs stand in every row: rows differ by what"
            " images say of the tumour alone."
        ),
    )
    return MinimalImaging(name, unit, tuple(imaging_stages), remaining, draws, notes)


def fit_sequentially(
    imaging: ImagingMaps,
    by_time: Sequence[Sequence[DrugImage]],
    settings: FitSettings,
    show: Progress,
) -> list[Patient]:
    """The patient as known without post-dose images, with those of the first time, of the first
    two, and so on.
    """
    device, start = choose_device(settings.device), None
    patients = []
    for k in range(len(by_time) + 1):
        posed = pose_problem_from_images(
            imaging, [image for session in by_time[:k] for image in session], settings, device
        )
        validate_problem(posed.problem)
        fitted = fit_fv(
            posed.problem, start, starts=settings.starts, seed=settings.seed, progress=show
        )
        start = fitted.theta
        patients.append(
            Patient.from_fitted_problem(
                FittedProblem.from_fit(fitted),
                fitted.run.covariance,
                imaging.mask,
                np.asarray(imaging.affine),
            )
        )
    return patients


def _group_by_time(images: Sequence[DrugImage]) -> list[list[DrugImage]]:
    times = sorted({i.time_s for i in images})
    return [[i for i in images if i.time_s == t] for t in times]


def _informed(patient: Patient) -> tuple[str, ...]:
    theta_sd = np.sqrt(np.diag(patient.covariance))
    return tuple(
        s.name for s in patient.unknowns.estimates(patient.mean, np.diag(theta_sd**2)) if s.informed
    )


def _evaluate_stage(
    name: str,
    images: int,
    patient: Patient,
    informed: tuple[str, ...],
    arms: Sequence[Arm],
    outcome: OutcomeFunction,
    n: int,
    seed: int,
) -> ImagingStage:
    found = np.asarray(outcome(patient, draw_inputs(patient, arms, n, seed)), dtype=np.float64)
    if found.shape != (n + 1,) or not (np.isfinite(found) & (found > 0)).all():
        raise InputError(
            "the outcome is not a positive number for every draw",
            field=name,
            found=f"{int((~(found > 0)).sum())} of {found.size} are not",
            expected=f"{n + 1} positive numbers",
            remedy="Take an outcome that is never 0, a concentration or an area say.",
        )
    low, high = np.quantile(found[1:], [0.025, 0.975])
    return ImagingStage(
        name,
        images,
        float(found[0]),
        float(low),
        float(high),
        float(np.log(found[1:]).std(ddof=1)),
        informed,
    )
