"""Clusters of similar voxels: their mean tissue and their coefficients, for every draw of the
uncertain inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from nanopinn.parameters import INFLOW, MULTIPLIERS
from nanopinn.physics.pools import Entries, PoolCoefficients
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.physics.tumour import TumourModel

#: Largest interstitial volume fraction of a cluster.
MAX_INTERSTITIAL_FRACTION = 0.9


def cluster_voxels(features: Tensor, mask: Tensor, groups: int, rng: np.random.Generator) -> Tensor:
    """Cluster the voxels of a mask by k-means on standardised features.

    Args:
        features: ``(feature, x, y, z)``, on scales on which differences matter (such as logarithms
            of volume fractions).
        mask: ``(x, y, z)``, bool.
        groups: largest number of clusters.
        rng: for the initial centres.

    Returns:
        Cluster of each voxel, ``(x, y, z)``, long; -1 outside the mask. No cluster is empty.
    """
    values = features[:, mask].T.cpu().numpy()
    values = (values - values.mean(0)) / np.where(values.std(0) > 0, values.std(0), 1.0)
    _, labels = kmeans2(values, min(groups, len(values)), minit="++", rng=rng)
    _, labels = np.unique(labels, return_inverse=True)
    out = torch.full(mask.shape, -1, dtype=torch.long, device=mask.device)
    out[mask] = torch.as_tensor(labels, dtype=torch.long, device=mask.device)
    return out


def cluster_mean(values: Tensor, labels: Tensor) -> Tensor:
    """Mean of maps ``(..., x, y, z)`` over each cluster, ``(..., cluster, 1, 1)``."""
    inside = labels >= 0
    of = labels[inside]
    count = torch.bincount(of).to(values.dtype)
    sums = values.new_zeros((*values.shape[:-3], len(count))).index_add_(
        -1, of, values[..., inside]
    )
    return (sums / count)[..., None, None]


def cluster_pools(pools: PoolCoefficients, labels: Tensor) -> PoolCoefficients:
    """Coefficients of every cluster, the means over its voxels, on a grid ``(cluster, 1, 1)``."""

    def mean(values: Tensor) -> Tensor:
        # a uniform value is its own mean
        return cluster_mean(values, labels) if values.shape[-3:] == labels.shape else values

    def means(entries: Entries) -> Entries:
        return {pq: mean(m) for pq, m in entries.items()}

    transfers = tuple(
        replace(
            k,
            uptake=mean(k.uptake),
            efflux=mean(k.efflux) if isinstance(k.efflux, Tensor) else k.efflux,
        )
        for k in pools.transfers
    )
    walls = tuple(replace(w, influx=mean(w.influx), efflux=mean(w.efflux)) for w in pools.walls)
    return replace(
        pools,
        capacity=mean(pools.capacity),
        diffusion=mean(pools.diffusion),
        reaction=means(pools.reaction),
        inflow=means(pools.inflow),
        transfers=transfers,
        walls=walls,
    )


def expand_to_clusters(values: Tensor, clusters: int) -> Tensor:
    """Arrange values of every draw, or of every draw and cluster, on the grid of all clusters.

    Args:
        values: ``(draw,)`` or ``(draw, cluster)``.
        clusters: number of clusters.

    Returns:
        ``(draw * cluster, 1, 1)``.
    """
    each = values[:, None].expand(-1, clusters) if values.dim() == 1 else values
    return each.reshape(-1, 1, 1)


def cluster_maps(
    maps: TissueMaps,
    labels: Tensor,
    relative_aif_scale: Tensor,
    uniform_maps: Mapping[str, Tensor] | None = None,
) -> TissueMaps:
    """Mean tissue of every cluster for every draw, on a grid ``(draw * cluster, 1, 1)``; all of it
    is tumour.

    Args:
        maps: of the voxels.
        labels: of :func:`cluster_voxels`.
        relative_aif_scale: divisor of PS, phi and v_p, ``(draw,)``, as an arterial input of another
            size would require.
        uniform_maps: values of maps by name (``phi``, ``v_p``, ``pH``), ``(draw,)``, in place of
            the mean of every cluster.
    """
    PS, phi, v_p, pH = (
        cluster_mean(m, labels).repeat(len(relative_aif_scale), 1, 1)
        for m in (maps.PS, maps.phi, maps.v_p, maps.pH)
    )
    clusters = int(labels.max()) + 1
    by = expand_to_clusters(relative_aif_scale, clusters)
    mean = maps.PS[maps.tumour > 0.5].mean() if maps.PS_mean is None else maps.PS_mean
    means = TissueMaps(
        torch.ones_like(phi),
        PS / by,
        (phi / by).clamp_max(MAX_INTERSTITIAL_FRACTION),
        v_p / by,
        pH,
        PS_mean=mean / by,
    )
    uniform: dict[str, Any] = {
        n: expand_to_clusters(v, clusters) for n, v in (uniform_maps or {}).items()
    }
    return replace(means, **uniform)


def build_sampled_cluster_model(
    maps: TissueMaps,
    labels: Tensor,
    scalars: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
    factors: Mapping[str, Tensor],
    relative_aif_scale: Tensor,
    uniform_maps: Mapping[str, Tensor] | None = None,
) -> TumourModel:
    """Tumour model of every cluster for every draw, on a grid ``(draw * cluster, 1, 1)``.

    Args:
        maps, labels, relative_aif_scale, uniform_maps: as in :func:`cluster_maps`.
        scalars: of the model, ``(draw,)``; weights of functions ``(draw, k)``, whose shapes are
            averaged over each cluster.
        values: of parameters by symbol, ``(draw,)``.
        factors: on the tissue's properties, ``(draw,)``.
    """
    clusters = int(labels.max()) + 1
    shapes, moved = (
        {},
        {
            n: _on_grid(s, clusters)
            for n, s in scalars.items()
            if n != INFLOW and n not in MULTIPLIERS
        },
    )
    for name in (n for n in scalars if n in MULTIPLIERS):
        log = torch.einsum(
            "dk,kc->dc", scalars[name], cluster_mean(maps.shapes[name], labels)[..., 0, 0]
        )
        shapes[name], moved[name] = expand_to_clusters(log, clusters)[None], log.new_ones(1)
    of_factors, of_values = (
        {n: expand_to_clusters(v, clusters) for n, v in drawn.items()}
        for drawn in (factors, values)
    )
    return TumourModel.from_maps(
        replace(cluster_maps(maps, labels, relative_aif_scale, uniform_maps), shapes=shapes),
        moved,
        of_factors,
        of_values,
    )


def _on_grid(scalar: Tensor, clusters: int) -> Tensor:
    """A scalar ``(draw,)`` on the grid; weights ``(draw, k)`` as ``(k, draw * cluster, 1, 1)``."""
    return (
        expand_to_clusters(scalar, clusters)
        if scalar.dim() == 1
        else torch.stack([expand_to_clusters(w, clusters) for w in scalar.T])
    )
