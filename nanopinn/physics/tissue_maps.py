"""Maps of the tissue, and their preparation: missing voxels, smoothing of pH, shrinkage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.imaging.geometry import smooth_local_quadratic
from nanopinn.parameters import value

Array = NDArray[np.float64]

#: Width of the normal tissue around the tumour: several lengths over which its pressure decays, m.
MARGIN_M = 2.5e-3
#: Width over which pH is smoothed before the release rate is computed, because the rate grows
#: tenfold per half a pH unit. Paraboloids are fitted: planes would fill the acid core, from which
#: most drug comes, and the release rate would be overestimated.
PH_SMOOTHING_VOXELS = 1.2


@dataclass(frozen=True)
class TissueMaps:
    """Maps of the tissue on one grid, tensors ``(x, y, z)``, float64.

    Attributes:
        tumour: 1 in the tumour, 0 in normal tissue.
        PS: permeability times surface of the contrast agent, 1/s.
        phi: interstitial volume fraction, which is the porosity (ve).
        v_p: plasma volume fraction.
        pH: extracellular pH.
        shapes: basis functions of the logarithm of a multiplier in space, by its name
            (:data:`nanopinn.parameters.unknown_registry.MULTIPLIERS`), ``(k, x, y, z)``; a model's
            scalar of that name, ``(k,)``, holds their weights.
        cut: faces of the box that cut the tumour, as (axis, side) with side 0 or 1. Beyond them the
            tumour continues as its mirror image, so that nothing crosses them except the unknown
            :data:`nanopinn.parameters.unknown_registry.INFLOW`.
        PS_mean: mean PS of the whole tumour, where the maps are a part of it, 1/s; the mean of the
            maps if None.
    """

    tumour: Tensor
    PS: Tensor
    phi: Tensor
    v_p: Tensor
    pH: Tensor
    shapes: Mapping[str, Tensor] = field(default_factory=dict)
    cut: tuple[tuple[int, int], ...] = ()
    PS_mean: Tensor | None = None

    def plasma_fraction(self) -> Tensor:
        """Plasma volume fraction, at least a thousandth.

        A voxel without visible plasma in the DCE series still has capillaries.
        """
        return self.v_p.clamp_min(1e-3)

    def vascularity(self) -> Tensor:
        """PS over its mean in the tumour.

        Other properties of the vessel wall are assumed to be proportional to it.
        """
        return self.PS / (
            self.PS[self.tumour > 0.5].mean() if self.PS_mean is None else self.PS_mean
        )


def describe_cut_faces(mask: NDArray[np.bool_], cut: tuple[tuple[int, int], ...]) -> list[str]:
    """How the tumour continues beyond the image, as sentences; none where it touches no face.

    Args:
        mask: tumour in the image, ``(x, y, z)``.
        cut: faces of the image beyond which it continues, as (axis, side).
    """
    found = []
    for axis, name in enumerate("xyz"):
        if mask.shape[axis] == 1:
            found.append(f"The image is a single slice along {name}, beyond which the tumour")
            continue
        for side, which in enumerate(("first", "last")):
            section = mask.take(-side, axis=axis).sum()
            share = section / mask.sum(axis=tuple(a for a in range(3) if a != axis)).max()
            if (axis, side) in cut:
                found.append(f"The {which} slice along {name} cuts the tumour, which beyond it")
            elif section:
                found.append(
                    f"The tumour touches the {which} slice along {name} with {share:.0%} of its"
                    " largest section, and is taken to end there."
                )
    mirrored = (
        " is taken to continue as its mirror image (no fluid, drug or heat crosses the cut). No"
        " interval includes the error of this assumption; an image of the whole tumour avoids it."
    )
    return [text if text.endswith(".") else text + mirrored for text in found]


def fill_missing_voxels(
    values: Array, inside: NDArray[np.bool_], normal: float, low: float, high: float = np.inf
) -> Array:
    """Fill missing voxels of a map: the tumour's median inside, the normal value outside.

    Args:
        values: ``(x, y, z)``; not finite where missing.
        inside: voxels of the tumour.
        normal: value of normal tissue.
        low: lower limit of the result.
        high: upper limit of the result.

    Raises:
        InputError: every voxel of the tumour is missing.
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


#: Symbol of the value in normal tissue, and the limits within which a map is solved: Ktrans in 1/s.
_KINETIC_MAPS = {
    "Ktrans": ("Ktrans_n", 1e-6, np.inf),
    "ve": ("ve_n", 0.05, 0.9),
    "vp": ("vp_n", 0.0, 0.5),
}


def fill_kinetic_maps(
    Ktrans: Array, ve: Array, vp: Array, inside: NDArray[np.bool_]
) -> tuple[Array, Array, Array]:
    """Kinetic maps without missing values: see :func:`fill_missing_voxels`.

    Args:
        Ktrans: 1/s, ``(x, y, z)``; NaN where it is not known.
        ve: extravascular extracellular volume fraction.
        vp: plasma volume fraction.
        inside: the tumour.

    Raises:
        InputError: a map has no value in the tumour.
    """
    given = {"Ktrans": Ktrans, "ve": ve, "vp": vp}
    filled = [
        fill_missing_voxels(given[name], inside, value(normal), low, high)
        for name, (normal, low, high) in _KINETIC_MAPS.items()
    ]
    return filled[0], filled[1], filled[2]


def cut_tissue_box(
    Ktrans: Array,
    ve: Array,
    vp: Array,
    pH: Array,
    inside: NDArray[np.bool_],
    cut: Callable[[Array, float], Array],
    device: str,
) -> TissueMaps:
    """Tissue in a box around the tumour, with the values of normal tissue outside of the image.

    Args:
        Ktrans, ve, vp, pH: maps without missing values, ``(x, y, z)``, Ktrans in 1/s.
        inside: the tumour.
        cut: cuts a map to the box, with a value outside of the image.
        device: of the tensors.
    """

    def box(values: Array, beyond: float) -> Tensor:
        return torch.as_tensor(cut(values, beyond), dtype=torch.float64, device=device)

    return TissueMaps(
        tumour=box(inside.astype(float), 0.0),
        PS=box(Ktrans, value("Ktrans_n")),
        phi=box(ve, value("ve_n")),
        v_p=box(vp, value("vp_n")),
        pH=box(pH, value("pHe_n")),
    )


def smooth_pH(pH: Array, inside: NDArray[np.bool_]) -> Array:
    """Smooth pH within the tumour and within normal tissue separately.

    The outer layer of either tissue mixes both and is not used as a source.

    Args:
        pH: ``(x, y, z)``.
        inside: voxels of the tumour.
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
    """Shrink a map towards the tumour mean by empirical Bayes.

        w = tau^2 / (tau^2 + sd^2),    value = mean + w (measured - mean)

    Mean and variance tau^2 between voxels are estimated from the tumour itself. Where the scan was
    too short to measure ve, its voxels get the mean of the tumour instead of noise.

    Args:
        values: measured, ``(x, y, z)``.
        std: standard deviation of every voxel, ``(x, y, z)``.
        inside: voxels of the tumour.

    Returns:
        Posterior mean, posterior standard deviation, and the weight w of the measured value.

    References:
        DerSimonian and Laird, Control. Clin. Trials 7:177 (1986).
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
