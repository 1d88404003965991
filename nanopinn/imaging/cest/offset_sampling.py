"""Error of the contrast ratio by the spacing of the offsets and by smoothing.

It is computed with noise-free spectra of the calibration's model.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import convolve

from nanopinn.imaging.cest.ratiometric import CalibrationModel

Array = NDArray[np.float64]
#: Steps of the table in B0 shift (ppm) and pH.
_SHIFT_STEP, _PH_STEP = 0.1, 0.15
#: Processing of a scan: series ``(n, offset)`` with agent and without, and the B0 shift (ppm), to
#: ln ratio ``(n,)``.
LogRatioFunction = Callable[[list[Array], list[Array], Array], Array]
#: B0 shift (ppm) and pH to mean and standard deviation of ln(estimated ratio / true ratio).
SamplingError = Callable[[Array, Array], tuple[Array, Array]]


def tabulate_sampling_error(
    model: CalibrationModel | None,
    offsets_ppm: list[Array],
    shifts: Array,
    log_ratio: LogRatioFunction,
    pH_range: tuple[float, float],
) -> SamplingError:
    """Tabulate the error of ln ratio by sampling and smoothing over B0 shift and pH.

    B0 shift and pH are not known to one step of the table, so the error is averaged over
    neighbouring entries: their mean is a bias that can be corrected, their scatter an uncertainty.

    Args:
        model: noise-free spectra of the calibration; None for a calibration without a model.
        offsets_ppm: of the series of both contrasts, ``(o,)`` each.
        shifts: B0 shifts in the scan, ``(n,)``, ppm.
        log_ratio: processing of the scan.
        pH_range: of the calibration.

    Returns:
        Function of B0 shift and pH to mean and standard deviation of ln(estimated / true ratio);
        NaN where a contrast vanishes, 0 without a model.
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
    std = np.sqrt(np.maximum(_average_neighbours(error**2) - mean**2, 0))
    table = RegularGridInterpolator(
        (at, pH), np.stack([mean, std], axis=-1), bounds_error=False
    )  # NaN gives NaN

    def look_up(shift: Array, found: Array) -> tuple[Array, Array]:
        both = table(
            np.stack([np.clip(shift, at[0], at[-1]), np.clip(found, pH[0], pH[-1])], axis=-1)
        )
        return both[..., 0], both[..., 1]

    return look_up


def _average_neighbours(table: Array) -> Array:
    """Average over neighbours along both axes with weights 1/4, 1/2, 1/4."""
    weights = np.array([0.25, 0.5, 0.25])
    return np.asarray(convolve(table, weights[:, None] * weights, mode="nearest"))
