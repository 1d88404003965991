"""Fluid that vessels filter and lymph drains, per group of alike voxels and draw; and the groups."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.physics.model import TumourModel
from nanopinn.solvers.clusters import cluster_mean, cluster_voxels
from nanopinn.solvers.forward import Setting
from nanopinn.solvers.grid import average_subcells
from nanopinn.solvers.pressure import solve_pressure
from nanopinn.workflows.therapy.draws import InputDraws
from nanopinn.workflows.therapy.patient import Patient

Array = NDArray[np.float64]
FactorValue = Array | Tensor | float

#: Relative residual of the pressure solves: far below what any input is known to.
PRESSURE_TOLERANCE = 1e-6
#: A group with a smaller share of the tumour joins the one it is most like.
MIN_GROUP_SHARE = 0.03


def cluster_exchange(
    patient: Patient,
    draws: InputDraws,
    labels: Tensor,
    factors: Mapping[str, FactorValue] | None = None,
) -> tuple[Array, Array]:
    """Filtration and lymphatic drainage of :func:`cluster_flow`, ``(draw, group)`` each, 1/s."""
    return cluster_flow(patient, draws, labels, factors)[:2]


def cluster_flow(
    patient: Patient,
    draws: InputDraws,
    labels: Tensor,
    factors: Mapping[str, FactorValue] | None = None,
) -> tuple[Array, Array, Array]:
    """Filtration, lymphatic drainage and pressure, means over each group of voxels: one pressure solve per draw.

    Args:
        labels: of the voxels, ``(x, y, z)``, -1 outside (:func:`group_tumour_voxels`).
        factors: on the tumour's properties at the time that is meant, as heat and radiation change them: ``(draw,)``, or one for all.

    Returns:
        J_v and J_L in 1/s, p in Pa, ``(draw, group)`` each.
    """
    tissue = patient.tissue
    setting = Setting(tissue.maps, tissue.grid, patient.flow_refine, patient.rim)
    fine = setting.flow_setting
    every = {
        name: np.broadcast_to(np.asarray(f, dtype=np.float64), len(draws))
        for name, f in (factors or {}).items()
    }
    at_median: Tensor | None = None
    found = []
    for i in range(len(draws)):
        here = {name: float(f[i]) for name, f in every.items()}
        model = TumourModel.of(fine.maps, _tensors(draws.scalars_at_draw(i), tissue.maps.phi), here)
        flow = model.flow()
        scale = flow.p_e.max()
        # pressure over p_e answers only to the length scale and to normal tissue, so that of the median is near
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


def group_tumour_voxels(patient: Patient, n: int, rng: np.random.Generator) -> Tensor:
    """Group the tumour's voxels by vessels, walls, pH and filtration at the median; none is small.

    Args:
        n: groups, at most.

    Returns:
        ``(x, y, z)``, long: the group, in order of growing PS; -1 outside the tumour.
    """
    maps, features = patient.tissue.maps, _features(patient)
    inside = maps.tumour > 0.5
    labels = cluster_voxels(features, inside, n, rng)
    values = features[:, inside].T
    values = (values - values.mean(0)) / values.std(0).clamp_min(1e-12)
    of = _merge_small_groups(labels[inside], values)
    means = [float(maps.PS[inside][of == k].mean()) for k in of.unique()]
    order = torch.as_tensor(np.argsort(np.argsort(means)), device=of.device)
    out = torch.full_like(labels, -1)
    out[inside] = order[torch.searchsorted(of.unique(), of)]
    return out


def _features(patient: Patient) -> Tensor:
    maps = patient.tissue.maps
    setting = Setting(maps, patient.tissue.grid, patient.flow_refine, patient.rim)
    model = TumourModel.of(setting.flow_setting.maps, _tensors(patient.tissue.scalars, maps.phi))
    p = solve_pressure(model.flow(), setting.flow_setting.grid, tol=PRESSURE_TOLERANCE).x
    J_v = average_subcells(model.filtration_and_drainage(p)[0], setting.flow_refine)
    return torch.stack([maps.v_p.clamp_min(1e-3).log(), maps.PS.log(), maps.pH, J_v])


def _merge_small_groups(labels: Tensor, values: Tensor) -> Tensor:
    """Voxels of the smallest group join the nearest other group's centre, until none is small."""
    while True:
        groups, counts = labels.unique(return_counts=True)
        if len(groups) == 1 or int(counts.min()) >= MIN_GROUP_SHARE * len(labels):
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
