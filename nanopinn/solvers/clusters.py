"""Voxels that are alike, as one: groups of voxels and their mean coefficients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from nanopinn.physics.pools import Entries, PoolCoefficients


def group_voxels(features: Tensor, mask: Tensor, groups: int, rng: np.random.Generator) -> Tensor:
    """Group the voxels of a mask by their features (k-means on standardised values).

    Args:
        features: ``(feature, x, y, z)``, on scales on which differences count (logarithms of volume fractions, say).
        mask: ``(x, y, z)``, bool. groups: how many, at most.

    Returns:
        ``(x, y, z)``, long: the group, -1 outside the mask. No group is empty.
    """
    values = features[:, mask].T.cpu().numpy()
    values = (values - values.mean(0)) / np.where(values.std(0) > 0, values.std(0), 1.0)
    _, labels = kmeans2(values, min(groups, len(values)), minit="++", rng=rng)
    _, labels = np.unique(labels, return_inverse=True)
    out = torch.full(mask.shape, -1, dtype=torch.long, device=mask.device)
    out[mask] = torch.as_tensor(labels, dtype=torch.long, device=mask.device)
    return out


def group_mean(values: Tensor, labels: Tensor) -> Tensor:
    """Mean of maps ``(..., x, y, z)`` over each group, ``(..., group, 1, 1)``."""
    inside = labels >= 0
    of = labels[inside]
    count = torch.bincount(of).to(values.dtype)
    sums = values.new_zeros((*values.shape[:-3], len(count))).index_add_(-1, of, values[..., inside])
    return (sums / count)[..., None, None]


def group_pools(pools: PoolCoefficients, labels: Tensor) -> PoolCoefficients:
    """Coefficients of every group, the means over its voxels, on a grid ``(group, 1, 1)``."""

    def mean(values: Tensor) -> Tensor:
        # one value for every voxel is its own mean
        return group_mean(values, labels) if values.shape[-3:] == labels.shape else values

    def means(entries: Entries) -> Entries:
        return {pq: mean(m) for pq, m in entries.items()}

    transfers = tuple(
        replace(k, uptake=mean(k.uptake), efflux=mean(k.efflux) if isinstance(k.efflux, Tensor) else k.efflux) for k in pools.transfers
    )
    walls = tuple(replace(w, influx=mean(w.influx), efflux=mean(w.efflux)) for w in pools.walls)
    return replace(
        pools, capacity=mean(pools.capacity), diffusion=mean(pools.diffusion), reaction=means(pools.reaction), inflow=means(pools.inflow),
        transfers=transfers, walls=walls,
    )  # fmt: skip
