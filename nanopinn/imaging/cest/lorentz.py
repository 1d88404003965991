"""Fit of a Z-spectrum by Lorentzian peaks of water, two amides and a broad peak between them.

    1 - Z(x) = sum_i a_i / (1 + ((x - c_i) / (w_i / 2))^2)

The heights of the amide peaks are the contrasts of published calibrations that were measured this
way (Sheth 2012, Contrast Media Mol Imaging 7:26).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.imaging.least_squares import Bounds, fit_levenberg_marquardt, invert_normal_matrix

Array = NDArray[np.float64]

#: Centre of the broad peak between water and the amides (hydroxyls), ppm.
_BROAD_PPM = 1.2
#: Start, lower and upper bound of height and width (ppm) of water, the broad peak and each amide.
_START = ((0.9, 0.05, 0.05, 0.05), (1.0, 1.5, 0.8, 0.8))
_LOW = ((0.2, 1e-4, 1e-4, 1e-4), (0.1, 0.5, 0.3, 0.3))
_HIGH = ((1.1, 0.6, 0.6, 0.6), (5.0, 6.0, 2.5, 2.5))


def amide_heights(
    offsets_ppm: Array,
    Z: Array,
    water_ppm: Array,
    amides_ppm: tuple[float, float],
    batch: int = 8192,
) -> tuple[Array, Array]:
    """Fit the heights of the two amide peaks.

    Args:
        offsets_ppm: ``(offset,)``.
        Z: spectra ``(n, offset)``.
        water_ppm: water resonance offset ``(n,)``, ppm; the other peaks keep their distance to it.
        amides_ppm: centres of the amide peaks, ppm from water.
        batch: spectra fitted at once.

    Returns:
        Heights ``(n, 2)`` and their variances ``(n, 2)``, NaN where no fit converged.
    """
    parts = [
        _heights(offsets_ppm, Z[i : i + batch], water_ppm[i : i + batch], amides_ppm)
        for i in range(0, len(Z), batch)
    ]
    heights, variances = (np.concatenate(p) for p in zip(*parts, strict=True))
    return heights, variances


def _heights(
    ppm: Array, Z: Array, water: Array, amides: tuple[float, float]
) -> tuple[Array, Array]:
    """As :func:`amide_heights`, for one batch."""
    data = torch.as_tensor(1 - Z)
    known = torch.isfinite(data).all(1) & torch.isfinite(torch.as_tensor(water))
    distance = torch.tensor([0.0, _BROAD_PPM, *amides], dtype=torch.float64)
    x = (
        torch.as_tensor(ppm)[None, None]
        - (torch.nan_to_num(torch.as_tensor(water))[:, None] + distance)[..., None]
    )

    def curves(p: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        a, w = p[:, :4, None], p[:, 4:, None]
        u = (2 * x[which] / w) ** 2
        shape = 1 / (1 + u)
        return (a * shape).sum(1), torch.cat([shape, 2 * a * u * shape**2 / w], dim=1)

    start, low, high = (
        torch.tensor([*v[0], *v[1]], dtype=torch.float64) for v in (_START, _LOW, _HIGH)
    )
    end = fit_levenberg_marquardt(
        curves,
        torch.where(known[:, None], data, 0.0),
        start.repeat(len(data), 1),
        Bounds(low, high),
        known,
        None,
        60,
    )
    inverse = invert_normal_matrix(end.J @ end.J.transpose(1, 2), ridge=1e-9)
    noise = end.cost / max(1, len(ppm) - 8)
    variance = inverse.diagonal(dim1=1, dim2=2) * noise[:, None]
    good = (known & end.converged).numpy()[:, None]
    return np.where(good, end.theta[:, 2:4].numpy(), np.nan), np.where(
        good, variance[:, 2:4].numpy(), np.nan
    )
