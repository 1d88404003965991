"""What tissue is made of its maps: holes filled, noise drawn to the mean, pH smoothed, so that
physics can be solved on it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from nanopinn.errors import InputError
from nanopinn.imaging.geometry import smooth_local_quadratic

Array = NDArray[np.float64]

#: Normal tissue around the tumour: several lengths over which the pressure falls off in it.
MARGIN_M = 2.5e-3
#: Release grows tenfold per half a pH unit: voxel noise of pH is averaged over this width first, by
#: paraboloids: planes would fill the acid core, from which most drug comes, and the release rate
#: would be found too high.
PH_SMOOTHING_VOXELS = 1.2


def fill_missing_voxels(
    values: Array, inside: NDArray[np.bool_], normal: float, low: float, high: float = np.inf
) -> Array:
    """A map without holes: the tumour's median inside, ``normal`` outside, held between ``low`` and
    ``high``.

    Raises:
        InputError: nothing in the tumour is known.
    """
    valid = np.isfinite(values)
    if not (valid & inside).any():
        raise InputError(
            "no voxel of the tumour has a valid kinetic fit",
            field="mask",
            remedy="Check the mask against the enhancement, and the timing of the bolus.",
        )
    out = np.where(valid, values, np.where(inside, np.median(values[valid & inside]), normal))
    return np.clip(out, low, high)


def smooth_pH(pH: Array, inside: NDArray[np.bool_]) -> Array:
    """Average over neighbours of the same tissue; the tumour's border layer, which mixes both, is
    not a source.
    """
    out = pH.copy()
    for tissue in (inside, ~inside):
        smooth = smooth_local_quadratic(
            pH, binary_erosion(tissue, border_value=1), PH_SMOOTHING_VOXELS
        )
        known = tissue & np.isfinite(smooth)
        out[known] = smooth[known]
    return out


def shrink_to_tumour_mean(
    values: Array, std: Array, inside: NDArray[np.bool_]
) -> tuple[Array, Array, Array]:
    """Posterior mean and sd of a map under a normal spread over the tumour, and the weight of each
    voxel's own value.

    Mean and spread are the tumour's own (empirical Bayes; DerSimonian and Laird 1986): where the
    scan was too short for ve, its voxels say the tumour's mean instead of noise.
    """
    good = inside & np.isfinite(values) & np.isfinite(std) & (std > 0)
    if good.sum() < 10:
        return values, std, np.ones_like(values)
    v, w = values[good], 1 / std[good] ** 2
    mean = float((w * v).sum() / w.sum())
    excess = float((w * (v - mean) ** 2).sum()) - (len(v) - 1)
    between = max(excess / float(w.sum() - (w**2).sum() / w.sum()), 0.0)
    w = 1 / (std[good] ** 2 + between)
    mean = float((w * v).sum() / w.sum())
    data_weight = np.ones_like(values)
    data_weight[good] = between / (between + std[good] ** 2)
    return (
        np.where(good, mean + data_weight * (values - mean), values),
        np.sqrt(data_weight) * std,
        data_weight,
    )
