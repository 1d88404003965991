"""What arms do around the vessels of every group of voxels, for every draw, in batches that a killed run keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.inference.resume import Keeper
from nanopinn.physics.values import Number, Values
from nanopinn.progress import Progress, silent
from nanopinn.solvers.exposure import Counted, Exposure
from nanopinn.workflows.settings import ComparisonSettings
from nanopinn.workflows.simulate.heating import temperature_course
from nanopinn.workflows.therapy.arms import Arm
from nanopinn.workflows.therapy.draws import Draws
from nanopinn.workflows.therapy.exchange import cluster_exchange, group_tumour
from nanopinn.workflows.therapy.patient import Patient
from nanopinn.workflows.therapy.under_voxel import UnderVoxel, expose
from nanopinn.workflows.treatment import Treatment

Array = NDArray[np.float64]
#: Draws that march together: what one batch does is lost at most when a run is killed.
AT_ONCE = 26
#: Hours after a heating or a fraction at which fluid is solved for anew, beside the beginning and the end; lines between them.
AFTER_H = (0.0, 12.0, 24.0, 48.0)


@dataclass(frozen=True)
class Exposed:
    """A patient's groups of voxels and the draws of what is not known, ready for arms.

    Attributes:
        labels: group of every voxel of the box, -1 outside. voxels: of every group, ``(group,)``.
        filtration: of every group at the medians, 1/s.
    """

    patient: Patient
    draws: Draws
    labels: Tensor
    voxels: Array
    filtration: Array
    counted: Counted
    keeper: Keeper | None = field(default=None, repr=False)
    progress: Progress = field(default=silent, repr=False)

    @classmethod
    def of(
        cls,
        patient: Patient,
        draws: Draws,
        settings: ComparisonSettings,
        keeper: Keeper | None = None,
        progress: Progress = silent,
    ) -> Exposed:
        """Group the tumour's voxels."""
        labels = group_tumour(patient, settings.groups, np.random.default_rng(settings.seed))
        voxels = torch.bincount(labels[labels >= 0]).cpu().numpy().astype(np.float64)
        filtration = cluster_exchange(patient, draws.rows(slice(0, 1)), labels)[0][0]
        return cls(
            patient,
            draws,
            labels,
            voxels,
            filtration,
            Counted(settings.limit_um * 1e-6, settings.lethal),
            keeper,
            progress,
        )

    @property
    def on_image(self) -> NDArray[np.int64]:
        """Group of every voxel of the image, -1 outside."""
        put = self.patient.tissue.domain.put(self.labels.cpu().numpy().astype(np.float64))
        return np.where(np.isfinite(put), put, -1).astype(np.int64)

    def to(self, arm: Arm) -> Exposure:
        """What an arm does, for every draw."""
        parts = []
        starts = range(0, len(self.draws), AT_ONCE)
        for i, start in enumerate(starts):
            name = f"{arm.name}-{start}"
            found = self.keeper.get(name, Exposure, (Exposure,)) if self.keeper else None
            if found is None:
                found = self._batch(
                    arm, self.draws.rows(slice(start, start + AT_ONCE)), (i, len(starts))
                )
                if self.keeper:
                    self.keeper.put(name, found, (Exposure,))
            parts.append(found)
        return Exposure.joined(parts)

    def _batch(self, arm: Arm, draws: Draws, turn: tuple[int, int]) -> Exposure:
        def show(stage: str, fraction: float, numbers: Mapping[str, float]) -> None:
            self.progress(f"{arm.name}: under the voxel", (turn[0] + fraction) / turn[1], numbers)

        return expose(
            self.under(arm.treatment, draws), arm.treatment, counted=self.counted, progress=show
        )

    def under(self, treatment: Treatment, draws: Draws) -> UnderVoxel:
        """The groups under a treatment, for some of the draws."""
        tissue = self.patient.tissue
        drawn = treatment.under(
            {n: torch.as_tensor(v).to(tissue.maps.phi) for n, v in draws.values.items()}
        )
        scalars: Values = {n: torch.as_tensor(v) for n, v in draws.scalars.items()}
        values: Values = {n: torch.as_tensor(v) for n, v in draws.values.items()}
        if treatment.carrier is not None:
            scalars, values = treatment.carrier.in_tissue(scalars, values)
        temperature, _, _ = temperature_course(treatment, tissue)
        flow = _FluidInTime(self.patient, draws, self.labels, drawn)
        return UnderVoxel.of(
            tissue.maps,
            self.labels,
            len(draws),
            scalars,
            values,
            flow,
            over=draws.maps_over,
            temperature=temperature,
            factors=drawn.factors if drawn.changes_tissue else None,
        )


class _FluidInTime:
    """Filtration and drainage of groups and draws at any time, linear between times at which the pressure is solved for."""

    def __init__(
        self, patient: Patient, draws: Draws, labels: Tensor, treatment: Treatment
    ) -> None:
        self.times = _solved_at(treatment)
        found = [
            cluster_exchange(patient, draws, labels, as_arrays(treatment.factors(t), len(draws)))
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


def _solved_at(treatment: Treatment) -> Array:
    if not treatment.changes_tissue:
        return np.zeros(1)
    ends = [end for _, end in treatment.heated_s] + list(treatment.radiation.events())
    times = {0.0, treatment.end_s, *(start for start, _ in treatment.heated_s)}
    times |= {end + 3600 * h for end in ends for h in AFTER_H}
    return np.array(sorted(t for t in times if 0 <= t <= treatment.end_s))


def as_arrays(factors: Mapping[str, Number], n: int) -> dict[str, Array]:
    """Factors of every draw, ``(n,)`` each."""
    return {
        name: np.broadcast_to(np.asarray(torch.as_tensor(f, dtype=torch.float64).cpu()), (n,))
        for name, f in factors.items()
    }
