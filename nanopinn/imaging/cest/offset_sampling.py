"""What a scan's offsets and the smoothing make of the ratio, told by noise-free spectra of the
calibration's own model.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import convolve

from nanopinn.imaging.cest.ratiometric import CalibrationModel

Array = NDArray[np.float64]
#: Places of water (ppm) and pH between which the table is interpolated.
_SHIFT_STEP, _PH_STEP = 0.1, 0.15
#: What a scan's processing makes of series ``(n, offset)`` with agent and without, and of where
#: water is: ln ratio ``(n,)``.
LogRatioFunction = Callable[[list[Array], list[Array], Array], Array]
#: Of where water is (ppm) and pH: mean and standard deviation of ln of the ratio found over the
#: true one.
SamplingError = Callable[[Array, Array], tuple[Array, Array]]


def tabulate_sampling_error(
    model: CalibrationModel | None,
    offsets_ppm: list[Array],
    shifts: Array,
    log_ratio: LogRatioFunction,
    pH_range: tuple[float, float],
) -> SamplingError:
    """The error of ln ratio that sampling and smoothing alone leave, as a function of water's place
    (ppm) and pH.

    Neither place nor pH is known to a step of the table, so it is averaged over neighbours: what
    they share can be taken off, what they differ by is an error.

    Args:
        offsets_ppm: of the series of both contrasts, ``(o,)`` each. shifts: places of water in the
            scan, ``(n,)``, ppm.
        log_ratio: the scan's processing. pH_range: of the calibration.

    Returns:
        mean and standard deviation, over neighbours, of ln of the ratio found over the true one;
        NaN where nothing is left of a
        contrast, 0 for a calibration without a model.
    """
    if model is None or not np.isfinite(shifts).any():
        return lambda shift, pH: (np.zeros_like(pH), np.zeros_like(pH))
    low, high = np.nanquantile(shifts, [0.02, 0.98])
    at = np.linspace(low - _SHIFT_STEP, high + _SHIFT_STEP, 4 + round((high - low) / _SHIFT_STEP))
    pH = np.linspace(*pH_range, 2 + round((pH_range[1] - pH_range[0]) / _PH_STEP))
    water, acid = (g.ravel() for g in np.meshgrid(at, pH, indexing="ij"))
    with_agent, without = (
        [model.spectra(i, ppm[None] - water[:, None], acid, w) for i, ppm in enumerate(offsets_ppm)]
        for w in (True, False)
    )
    error = (log_ratio(with_agent, without, water) - model.log_ratio(acid)).reshape(
        len(at), len(pH)
    )
    mean = _average_neighbours(error)
    spread = np.sqrt(np.maximum(_average_neighbours(error**2) - mean**2, 0))
    table = RegularGridInterpolator(
        (at, pH), np.stack([mean, spread], axis=-1), bounds_error=False
    )  # NaN asks for NaN

    def look_up(shift: Array, found: Array) -> tuple[Array, Array]:
        both = table(
            np.stack([np.clip(shift, at[0], at[-1]), np.clip(found, pH[0], pH[-1])], axis=-1)
        )
        return both[..., 0], both[..., 1]

    return look_up


def _average_neighbours(table: Array) -> Array:
    """Average over neighbours of both axes, with weights that fall off to nothing two steps away."""
    weights = np.array([0.25, 0.5, 0.25])
    return np.asarray(convolve(table, weights[:, None] * weights, mode="nearest"))
