"""The arterial input as every model takes it: contrast agent in plasma, straight between its times."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from nanopinn.imaging.kinetics.convolution import convolve_exponential

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PlasmaCurve:
    """Contrast agent in plasma, piecewise linear between its times; zero before the first.

    Attributes:
        times_s: ``(n,)`` on the clock of the scan. plasma_mM: ``(n,)``.
    """

    times_s: Array
    plasma_mM: Array

    def delayed(self, seconds: float) -> PlasmaCurve:
        """The same curve later (or, negative, earlier)."""
        return replace(self, times_s=self.times_s + seconds)

    def dispersed(self, seconds: float) -> PlasmaCurve:
        """The curve after a mixing chamber of mean transit time ``seconds`` on the way to the tissue (Calamante 2000, MRM 44:466).

        Convolution with ``exp(-t/T)/T``, exact at the nodes of a grid that resolves T.
        """
        first, last = float(self.times_s[0]), float(self.times_s[-1])
        at = np.union1d(
            self.times_s, np.arange(first, last, max(seconds / 20, (last - first) / 20000))
        )
        t, c, out = (torch.as_tensor(a) for a in (self.times_s, self.plasma_mM, at))
        mixed = (
            convolve_exponential(t, c, torch.tensor(1 / seconds, dtype=torch.float64), out)
            / seconds
        )
        return PlasmaCurve(at, mixed.numpy())


def plasma_from_blood(blood_mM: Array, hematocrit: float) -> Array:
    """The agent stays out of red cells: plasma = blood / (1 - Hct)."""
    return blood_mM / (1 - hematocrit)
