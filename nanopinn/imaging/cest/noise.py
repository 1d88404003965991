"""Noise of Z-spectra, from offsets where a spectrum holds nothing but the flank of water."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.t1.vfa import pooled_variance

Array = NDArray[np.float64]

#: Beyond this many ppm from 0 direct saturation falls off by even powers of the offset, and the agent is on the other side.
FLANK_PPM = 2.4
#: Of 1/offset: the flank, what a shift of water by a part of a ppm adds to it (-3), and its bend (-4).
_POWERS = (0, -2, -3, -4)


def flank_noise(offsets_ppm: Array, Z: Array, amide_ppm: float) -> Array:
    """Standard deviation of one value of every spectrum, ``(n,)``.

    What a smoothing spline leaves is no measure of it: on a coarse spectrum the spline must go through every point to follow
    water, and leaves nothing. Here a line in powers of 1/offset is fitted to the side without agent. Contrast of tissue there
    (NOE) counts as noise.

    Args:
        offsets_ppm: ``(o,)``. Z: ``(n, o)``. amide_ppm: where the agent is; its sign says which side is without.

    Raises:
        InputError: fewer than five offsets lie there.
    """
    flank = offsets_ppm * np.sign(amide_ppm) < -FLANK_PPM
    count = int(flank.sum())
    if count < 5:
        raise InputError(
            "the noise of the Z-spectra cannot be told",
            field="SaturationOffsetsPPM",
            found=f"{count} offsets below {-FLANK_PPM:g} ppm",
            expected="5 or more, on the side of water without agent",
            remedy="Measure them, e.g. at -3, -3.5, ..., -6 ppm.",
        )
    powers = _POWERS[: min(len(_POWERS), count // 2 + 1)]
    basis, _ = np.linalg.qr(np.stack([offsets_ppm[flank] ** float(p) for p in powers], axis=1))
    side = Z[:, flank]
    left = ((side - side @ basis @ basis.T) ** 2).sum(axis=1)
    return np.asarray(np.sqrt(pooled_variance(left, count - len(powers), np.isfinite(left))))
