"""What arms do around the vessels of every group of voxels, for every draw, in batches that a killed run keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.inference.resume import CheckpointStore
from nanopinn.physics.values import Number, Values
from nanopinn.progress import Progress, ignore_progress
from nanopinn.solvers.exposure import KillCriteria, Exposure
from nanopinn.workflows.settings import ComparisonSettings
from nanopinn.workflows.simulate.heating import temperature_course
from nanopinn.workflows.therapy.arms import Arm
from nanopinn.workflows.therapy.draws import InputDraws
from nanopinn.workflows.therapy.exchange import cluster_exchange, group_tumour_voxels
from nanopinn.workflows.therapy.patient import Patient
from nanopinn.workflows.therapy.under_voxel import MicroscaleModel, solve_exposure
from nanopinn.workflows.treatment import Treatment

Array = NDArray[np.float64]
#: Draws that march together: what one batch does is lost at most when a run is killed.
DRAWS_PER_BATCH = 26
#: Hours after a heating or a fraction at which fluid is solved for anew, beside the beginning and the end; lines between them.
HOURS_AFTER_EVENT = (0.0, 12.0, 24.0, 48.0)


@dataclass(frozen=True)
class ExposureModel:
    """A patient's groups of voxels and the draws of what is not known, ready for arms.

    Attributes:
        labels: group of every voxel of the box, -1 outside. voxels: of every group, ``(group,)``.
        filtration: of every group at the medians, 1/s.
    """

    patient: Patient
    draws: InputDraws
    labels: Tensor
    voxels: Array
    filtration: Array
    counted: KillCriteria
    checkpoint_store: CheckpointStore | None = field(default=None, repr=False)
    progress: Progress = field(default=ignore_progress, repr=False)

    @classmethod
    def of(
        cls,
        patient: Patient,
        draws: InputDraws,
        settings: ComparisonSettings,
        checkpoint_store: CheckpointStore | None = None,
        progress: Progress = ignore_progress,
    ) -> ExposureModel:
        """Group the tumour's voxels."""
        labels = group_tumour_voxels(patient, settings.groups, np.random.default_rng(settings.seed))
        voxels = torch.bincount(labels[labels >= 0]).cpu().numpy().astype(np.float64)
        filtration = cluster_exchange(patient, draws.select_draws(slice(0, 1)), labels)[0][0]
        return cls(
            patient,
            draws,
            labels,
            voxels,
            filtration,
            KillCriteria(settings.limit_um * 1e-6, settings.lethal),
            checkpoint_store,
            progress,
        )

    @property
    def group_labels_on_image(self) -> NDArray[np.int64]:
        """Group of every voxel of the image, -1 outside."""
        put = self.patient.tissue.domain.put(self.labels.cpu().numpy().astype(np.float64))
        return np.where(np.isfinite(put), put, -1).astype(np.int64)

    def to(self, arm: Arm) -> Exposure:
        """What an arm does, for every draw."""
        parts = []
        starts = range(0, len(self.draws), DRAWS_PER_BATCH)
        for i, start in enumerate(starts):
            name = f"{arm.name}-{start}"
            found = (
                self.checkpoint_store.get(name, Exposure, (Exposure,))
                if self.checkpoint_store
                else None
            )
            if found is None:
                found = self._batch(
                    arm,
                    self.draws.select_draws(slice(start, start + DRAWS_PER_BATCH)),
                    (i, len(starts)),
                )
                if self.checkpoint_store:
                    self.checkpoint_store.put(name, found, (Exposure,))
            parts.append(found)
        return Exposure.concatenate(parts)

    def _batch(self, arm: Arm, draws: InputDraws, batch: tuple[int, int]) -> Exposure:
        def show(stage: str, fraction: float, numbers: Mapping[str, float]) -> None:
            self.progress(f"{arm.name}: under the voxel", (batch[0] + fraction) / batch[1], numbers)

        return solve_exposure(
            self.with_values(arm.treatment, draws),
            arm.treatment,
            counted=self.counted,
            progress=show,
        )

    def with_values(self, treatment: Treatment, draws: InputDraws) -> MicroscaleModel:
        """The groups under a treatment, for some of the draws."""
        tissue = self.patient.tissue
        drawn = treatment.with_values(
            {n: torch.as_tensor(v).to(tissue.maps.phi) for n, v in draws.values.items()}
        )
        scalars: Values = {n: torch.as_tensor(v) for n, v in draws.scalars.items()}
        values: Values = {n: torch.as_tensor(v) for n, v in draws.values.items()}
        if treatment.carrier is not None:
            scalars, values = treatment.carrier.tissue_parameters(scalars, values)
        temperature, _, _ = temperature_course(treatment, tissue)
        flow = _InterpolatedFluidExchange(self.patient, draws, self.labels, drawn)
        return MicroscaleModel.of(
            tissue.maps,
            self.labels,
            len(draws),
            scalars,
            values,
            flow,
            relative_aif_scale=draws.relative_aif_scale,
            temperature=temperature,
            factors=drawn.factors if drawn.changes_tissue else None,
        )


class _InterpolatedFluidExchange:
    """Filtration and drainage of groups and draws at any time, linear between times at which the pressure is solved for."""

    def __init__(
        self, patient: Patient, draws: InputDraws, labels: Tensor, treatment: Treatment
    ) -> None:
        self.times = _pressure_solution_times(treatment)
        found = [
            cluster_exchange(
                patient, draws, labels, expand_factors_to_draws(treatment.factors(t), len(draws))
            )
            for t in self.times
        ]
        self.J_v, self.J_L = (np.stack(J) for J in zip(*found, strict=True))

    def __call__(self, t: float) -> tuple[Array, Array]:
        if len(self.times) == 1:
            return self.J_v[0], self.J_L[0]
        i = int(np.clip(np.searchsorted(self.times, t) - 1, 0, len(self.times) - 2))
        w = float(np.clip((t - self.times[i]) / (self.times[i + 1] - self.times[i]), 0.0, 1.0))
        return (1 - w) * self.J_v[i] + w * self.J_v[i + 1], (1 - w) * self.J_L[i] + w * self.J_L[
            i + 1
        ]


def _pressure_solution_times(treatment: Treatment) -> Array:
    if not treatment.changes_tissue:
        return np.zeros(1)
    ends = [end for _, end in treatment.heating_intervals_s] + list(treatment.radiation.events())
    times = {0.0, treatment.end_s, *(start for start, _ in treatment.heating_intervals_s)}
    times |= {end + 3600 * h for end in ends for h in HOURS_AFTER_EVENT}
    return np.array(sorted(t for t in times if 0 <= t <= treatment.end_s))


def expand_factors_to_draws(factors: Mapping[str, Number], n: int) -> dict[str, Array]:
    """Factors of every draw, ``(n,)`` each."""
    return {
        name: np.broadcast_to(np.asarray(torch.as_tensor(f, dtype=torch.float64).cpu()), (n,))
        for name, f in factors.items()
    }
