"""An irregular tumour with a necrotic core in normal tissue, on a grid finer than the voxels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from nanopinn.parameters import value

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Anatomy:
    """Tissue of the phantom, all ``(x, y, z)`` on the fine grid."""

    tumour: NDArray[np.bool_]
    necrosis: NDArray[np.bool_]
    PS: Array
    """Permeability times surface of the contrast agent, 1/s."""
    phi: Array
    v_p: Array
    pH: Array
    T1: Array
    """Native T1, s."""
    fields: Mapping[str, Array] = field(default_factory=dict)
    """Logarithms of multipliers in space, by name (:data:`nanopinn.physics.model.MULTIPLIERS`)."""


def draw_anatomy(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
    tumour_mm: tuple[float, float, float] | None = None,
) -> Anatomy:
    """Draw a phantom; heterogeneity is 1 mm in size.

    Args:
        tumour_mm: diameters of the ellipsoid whose volume it has and about which its border waves; None: an ellipsoid of 54 to
            60 % of each axis, less or more by what the waves are on average.
    """
    extent = [n * h for n, h in zip(shape, spacing_mm, strict=True)]
    radius = _radius(
        shape, spacing_mm, tumour_mm or (0.60 * extent[0], 0.54 * extent[1], 0.60 * extent[2]), rng
    )
    if tumour_mm is not None:
        radius = radius / np.quantile(radius, np.pi / 6 * np.prod(tumour_mm) / np.prod(extent))
    tumour = radius < 1
    necrosis = (radius < 0.42) & tumour

    def rough(sd: float) -> Array:
        return sd * _smooth_noise(shape, spacing_mm, 1.0, rng)

    PS = np.where(tumour, value("Ktrans_t"), value("Ktrans_n")) * np.exp(rough(0.3))
    PS = np.where(necrosis, 0.25 * PS, PS)
    phi = np.where(tumour, value("ve_t"), value("ve_n")) + rough(0.03) + 0.12 * necrosis
    v_p = (
        np.where(tumour, value("vp_t"), value("vp_n"))
        * np.exp(rough(0.3))
        * np.where(necrosis, 0.3, 1.0)
    )
    depth = np.clip(1 - radius, 0, 1)
    # protons diffuse: their field is smoother than the vessels
    pH = np.where(tumour, 7.1 - 0.6 * depth, value("pHe_n")) + 0.05 * _smooth_noise(
        shape, spacing_mm, 2.0, rng
    )
    T1 = np.where(tumour, value("T10_t"), 1.1) + rough(0.05)
    soft = 0.35 / min(spacing_mm)  # no tissue border is sharper than the cells that make it
    PS, phi, v_p, pH = (gaussian_filter(a, soft, mode="nearest") for a in (PS, phi, v_p, pH))
    return Anatomy(tumour, necrosis, PS, np.clip(phi, 0.08, 0.7), v_p, pH, T1)


#: Over which a multiplier in space is smooth, mm.
FIELD_MM = 1.5


def draw_fields(
    anatomy: Anatomy,
    spacing_mm: tuple[float, float, float],
    log_sds: Mapping[str, float],
    seed: int,
) -> Anatomy:
    """The same tissue with multipliers that vary over the tumour, each of mean logarithm 0 and the spread given.

    They have random numbers of their own, so that everything else of a seed stays as it was.
    """
    rng, fields = np.random.default_rng([seed, 1]), {}
    for name, spread in log_sds.items():
        noise = _smooth_noise((*anatomy.tumour.shape,), spacing_mm, FIELD_MM / 2, rng)
        inside = noise[anatomy.tumour]
        if spread > 0:
            fields[name] = np.where(
                anatomy.tumour, spread * (noise - inside.mean()) / inside.std(), 0.0
            )
    return replace(anatomy, fields=fields)


def _radius(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    diameters_mm: tuple[float, float, float],
    rng: np.random.Generator,
) -> Array:
    """Scaled radius of an ellipsoid with a wavy border, 1 there."""
    axes = [(np.arange(n) + 0.5) * h - n * h / 2 for n, h in zip(shape, spacing_mm, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    half = [d / 2 for d in diameters_mm]
    radius = np.sqrt((x / half[0]) ** 2 + (y / half[1]) ** 2 + (z / half[2]) ** 2)
    return np.asarray(radius * (1 + 0.10 * _smooth_noise(shape, spacing_mm, 2.0, rng)))


def _smooth_noise(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    size_mm: float,
    rng: np.random.Generator,
) -> Array:
    """Gaussian field of unit variance and correlation length ``size_mm``, its mean within 2."""
    field = gaussian_filter(
        rng.standard_normal(shape), [size_mm / h for h in spacing_mm], mode="wrap"
    )
    # over a few mm a smooth field is nearly constant: by its spread alone its mean would be scaled to tens
    return np.asarray(field / max(field.std(), abs(field.mean()) / 2))
