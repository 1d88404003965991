"""What each cell does by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from nanopinn.imaging.dce.convolution import convolve_exponential
from nanopinn.imaging.dce.plasma_curve import PlasmaCurve
from nanopinn.physics.tumour import TissueMaps
from nanopinn.solvers.runge_kutta import time_key


class LocalResponse:
    """Exact response of each cell to the plasma curve when nothing moves between cells."""

    def __init__(self, maps: TissueMaps, aif: PlasmaCurve, times: list[float]) -> None:
        rate = (maps.PS / maps.phi).reshape(-1)
        curve_t, curve_c = (
            torch.as_tensor(v, dtype=rate.dtype, device=rate.device)
            for v in (aif.times_s, aif.plasma_mM)
        )
        at = torch.tensor(times, dtype=rate.dtype, device=rate.device)
        response = convolve_exponential(curve_t, curve_c, rate, at) * rate[:, None]
        self._index = {time_key(t): i for i, t in enumerate(times)}
        self._values = response.T.reshape(len(times), *maps.phi.shape)

    def at(self, t: float) -> Tensor:
        return self._values[self._index[time_key(t)]]
