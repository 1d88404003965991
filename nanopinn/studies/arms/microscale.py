"""Sub-voxel model of the arms: clusters of similar voxels, their fluid exchange for every draw, and
the exposure of their cells, in batches of draws that an interrupted run keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.io.checkpoint_store import CheckpointStore
from nanopinn.parameters import HOUR, UM, Number, Values
from nanopinn.physics.treatment import Treatment
from nanopinn.physics.tumour import TumourModel
from nanopinn.progress import Progress, ignore_progress
from nanopinn.settings import ComparisonSettings
from nanopinn.solvers.clusters import cluster_mean, cluster_voxels
from nanopinn.solvers.grid import average_subcells
from nanopinn.solvers.krogh_exposure import Exposure, KillCriteria
from nanopinn.solvers.krogh_treatment import MicroscaleModel, solve_exposure
from nanopinn.solvers.pressure import solve_pressure
from nanopinn.solvers.tissue_setting import TissueSetting
from nanopinn.studies.arms.arm_specs import Arm
from nanopinn.studies.arms.draws import InputDraws
from nanopinn.studies.arms.patient import Patient
from nanopinn.studies.temperature import temperature_course

Array = NDArray[np.float64]
FactorValue = Array | Tensor | float

#: Relative residual of the pressure solves: far below what any input is known to.
PRESSURE_TOLERANCE = 1e-6
#: A cluster with a smaller fraction of the tumour is merged with the most similar one.
MIN_CLUSTER_FRACTION = 0.03
#: Draws that are computed together; an interrupted run loses one batch at most.
DRAWS_PER_BATCH = 26
#: Hours after a heating or a fraction at which the pressure is solved again, besides the start and
#: the end; the exchange is linear in between.
HOURS_AFTER_EVENT = (0.0, 12.0, 24.0, 48.0)


def cluster_flow(
    patient: Patient,
    draws: InputDraws,
    labels: Tensor,
    factors: Mapping[str, FactorValue] | None = None,
) -> tuple[Array, Array, Array]:
    """Mean filtration, lymphatic drainage and pressure of every cluster, by one pressure solution
    per draw.

    Args:
        patient: tissue.
        draws: of the uncertain inputs.
        labels: cluster of every voxel, ``(x, y, z)``; -1 outside the tumour.
        factors: of heat and radiation on the tissue's properties at one time, ``(draw,)`` or one
            for all.

    Returns:
        J_v and J_L in 1/s, p in Pa, ``(draw, cluster)`` each.
    """
    tissue = patient.tissue
    setting = TissueSetting(tissue.maps, tissue.grid, patient.flow_refine, patient.rim)
    fine = setting.flow_setting
    every = {
        name: np.broadcast_to(np.asarray(f, dtype=np.float64), len(draws))
        for name, f in (factors or {}).items()
    }
    at_median: Tensor | None = None
    found = []
    for i in range(len(draws)):
        here = {name: float(f[i]) for name, f in every.items()}
        model = TumourModel.from_maps(
            fine.maps, _tensors(draws.scalars_at_draw(i), tissue.maps.phi), here
        )
        flow = model.flow_coefficients()
        scale = flow.p_e.max()
        # p / p_e depends on the hydraulic length and on normal tissue only, so the solution at the
        # median is a good initial value
        solved = solve_pressure(
            flow,
            fine.grid,
            None if at_median is None else at_median * scale,
            tol=PRESSURE_TOLERANCE,
        )
        at_median = solved.x / scale if at_median is None else at_median
        fields = (*model.filtration_and_drainage(solved.x), solved.x)
        found.append(
            [
                cluster_mean(average_subcells(v, setting.flow_refine), labels)[:, 0, 0]
                for v in fields
            ]
        )
    J_v, J_L, p = (torch.stack(v).cpu().numpy() for v in zip(*found, strict=True))
    return J_v, J_L, p


def cluster_tumour_voxels(patient: Patient, n: int, rng: np.random.Generator) -> Tensor:
    """Cluster the tumour's voxels by plasma volume, PS, pH and filtration at the median.

    Args:
        patient: tissue.
        n: largest number of clusters; small clusters are merged.
        rng: for the initial centres.

    Returns:
        Cluster of every voxel, in order of increasing PS, ``(x, y, z)``, long; -1 outside the
        tumour.
    """
    maps, features = patient.tissue.maps, _features(patient)
    inside = maps.tumour > 0.5
    labels = cluster_voxels(features, inside, n, rng)
    values = features[:, inside].T
    values = (values - values.mean(0)) / values.std(0).clamp_min(1e-12)
    of = _merge_small_clusters(labels[inside], values)
    means = [float(maps.PS[inside][of == k].mean()) for k in of.unique()]
    order = torch.as_tensor(np.argsort(np.argsort(means)), device=of.device)
    out = torch.full_like(labels, -1)
    out[inside] = order[torch.searchsorted(of.unique(), of)]
    return out


def _features(patient: Patient) -> Tensor:
    maps = patient.tissue.maps
    setting = TissueSetting(maps, patient.tissue.grid, patient.flow_refine, patient.rim)
    model = TumourModel.from_maps(
        setting.flow_setting.maps, _tensors(patient.tissue.scalars, maps.phi)
    )
    p = solve_pressure(
        model.flow_coefficients(), setting.flow_setting.grid, tol=PRESSURE_TOLERANCE
    ).x
    J_v = average_subcells(model.filtration_and_drainage(p)[0], setting.flow_refine)
    return torch.stack([maps.v_p.clamp_min(1e-3).log(), maps.PS.log(), maps.pH, J_v])


def _merge_small_clusters(labels: Tensor, values: Tensor) -> Tensor:
    """Merge the smallest cluster with the nearest others until no cluster is small."""
    while True:
        groups, counts = labels.unique(return_counts=True)
        if len(groups) == 1 or int(counts.min()) >= MIN_CLUSTER_FRACTION * len(labels):
            return labels
        small = groups[counts.argmin()]
        others = groups[groups != small]
        centres = torch.stack([values[labels == k].mean(0) for k in others])
        in_smallest = labels == small
        labels = labels.clone()
        labels[in_smallest] = others[torch.cdist(values[in_smallest], centres).argmin(1)]


def _tensors(scalars: Mapping[str, float | Array], like: Tensor) -> dict[str, Tensor]:
    # a plain number would pass through single precision on its way to a tensor like another
    return {k: torch.as_tensor(v, dtype=like.dtype, device=like.device) for k, v in scalars.items()}


@dataclass(frozen=True)
class ExposureModel:
    """Clusters of a patient's tumour and draws of the uncertain inputs, to which arms are applied.

    Attributes:
        patient: tissue and posterior.
        draws: of the uncertain inputs.
        labels: cluster of every voxel of the box, ``(x, y, z)``; -1 outside the tumour.
        voxels: number of voxels of each cluster, ``(cluster,)``.
        filtration: of each cluster at the medians, ``(cluster,)``, 1/s.
        counted: thresholds for counting cells.
        checkpoint_store: of finished batches, if they are kept.
        progress: called with the stage and the fraction that is done.
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
    def from_draws(
        cls,
        patient: Patient,
        draws: InputDraws,
        settings: ComparisonSettings,
        checkpoint_store: CheckpointStore | None = None,
        progress: Progress = ignore_progress,
    ) -> ExposureModel:
        """Cluster the tumour's voxels.

        Args:
            settings: number of clusters, seed, and thresholds for counting cells.
            patient, draws, checkpoint_store, progress: see the attributes.
        """
        labels = cluster_tumour_voxels(
            patient, settings.groups, np.random.default_rng(settings.seed)
        )
        voxels = torch.bincount(labels[labels >= 0]).cpu().numpy().astype(np.float64)
        filtration = cluster_flow(patient, draws.select_draws(slice(0, 1)), labels)[0][0]
        return cls(
            patient,
            draws,
            labels,
            voxels,
            filtration,
            KillCriteria(settings.limit_um * UM, settings.lethal),
            checkpoint_store,
            progress,
        )

    @property
    def labels_on_image(self) -> NDArray[np.int64]:
        """Cluster of every voxel of the image, -1 outside the tumour."""
        put = self.patient.tissue.domain.embed(self.labels.cpu().numpy().astype(np.float64))
        return np.where(np.isfinite(put), put, -1).astype(np.int64)

    def expose(self, arm: Arm) -> Exposure:
        """Exposure of the cells under an arm, for every draw."""
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
            self.progress(f"{arm.name}: sub-voxel model", (batch[0] + fraction) / batch[1], numbers)

        return solve_exposure(
            self.microscale_model(arm.treatment, draws),
            arm.treatment,
            counted=self.counted,
            progress=show,
        )

    def microscale_model(self, treatment: Treatment, draws: InputDraws) -> MicroscaleModel:
        """Sub-voxel model of the clusters under a treatment, for some of the draws."""
        tissue = self.patient.tissue
        drawn = treatment.with_values(
            {n: torch.as_tensor(v).to(tissue.maps.phi) for n, v in draws.values.items()}
        )
        of_carrier = draws.scalars_for(treatment.carrier)
        scalars: Values = {n: torch.as_tensor(v) for n, v in of_carrier.items()}
        values: Values = {n: torch.as_tensor(v) for n, v in draws.values.items()}
        if treatment.carrier is not None:
            scalars, values = treatment.carrier.tissue_parameters(scalars, values)
        temperature, _, _ = temperature_course(treatment, tissue)
        flow = _InterpolatedFluidExchange(self.patient, draws, self.labels, drawn)
        return MicroscaleModel.from_arrays(
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
    """Filtration and drainage of every draw and cluster, linear between the times at which the
    pressure is solved.
    """

    def __init__(
        self, patient: Patient, draws: InputDraws, labels: Tensor, treatment: Treatment
    ) -> None:
        self.times = _pressure_solution_times(treatment)
        found = [
            cluster_flow(
                patient, draws, labels, expand_factors_to_draws(treatment.factors(t), len(draws))
            )[:2]
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
    times |= {end + HOUR * h for end in ends for h in HOURS_AFTER_EVENT}
    return np.array(sorted(t for t in times if 0 <= t <= treatment.end_s))


def expand_factors_to_draws(factors: Mapping[str, Number], n: int) -> dict[str, Array]:
    """Expand factors, one or ``(n,)`` each, to every draw, ``(n,)``."""
    return {
        name: np.broadcast_to(np.asarray(torch.as_tensor(f, dtype=torch.float64).cpu()), (n,))
        for name, f in factors.items()
    }
