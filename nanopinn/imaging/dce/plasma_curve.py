"""Contrast agent in plasma as a piecewise-linear curve, and its values, integrals and exponential
convolutions at the frames of a scan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.imaging.dce.convolution import DelayTable, convolve_exponential

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PlasmaCurve:
    """Contrast agent in plasma, piecewise linear between its times; zero before the first.

    Attributes:
        times_s: on the clock of the scan, ``(n,)``, s.
        plasma_mM: ``(n,)``, mM.
    """

    times_s: Array
    plasma_mM: Array

    def delayed(self, seconds: float) -> PlasmaCurve:
        """The curve delayed by ``seconds``."""
        return replace(self, times_s=self.times_s + seconds)

    def dispersed(self, seconds: float) -> PlasmaCurve:
        """The curve after a mixing chamber of mean transit time ``seconds`` on the way to the
        tissue (Calamante 2000, MRM 44:466).

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
    """Concentration in plasma, ``blood / (1 - Hct)``: the agent does not enter red cells."""
    return blood_mM / (1 - hematocrit)


@dataclass(frozen=True)
class SampledInput:
    """The curve at the frames, with the delay of each voxel.

    Attributes:
        plasma: Cp, ``(1 or n, t)``, mM.
        slope: dCp/dt, ``(1 or n, t)``, mM/s.
        convolve: from rates ``(n, m)`` to ``y`` and ``dy/dk``, ``(n, m, t)`` each.
    """

    plasma: Tensor
    slope: Tensor
    convolve: Callable[[Tensor], tuple[Tensor, Tensor]]


class InputCurve:
    """A plasma curve and the frames of a scan; tables are built at first use."""

    def __init__(self, aif: PlasmaCurve, frame_times_s: Array, device: str = "cpu") -> None:
        self.aif, self.device = aif, device
        self._shifted: dict[float, InputCurve] = {}
        self._table_shift_s = 0.0  # delay relative to the curve of the tables
        self.nodes, self.values, self.times = (
            torch.as_tensor(np.array(v, dtype=np.float64), device=device)
            for v in (aif.times_s, aif.plasma_mM, frame_times_s)
        )

    @cached_property
    def at_frames(self) -> SampledInput:
        """The curve without a further delay."""
        table = self._delays.table_at(self.times - self._table_shift_s)
        plasma, slope = self._interpolated(self.times[None])

        def convolve(rates: Tensor) -> tuple[Tensor, Tensor]:
            y, dy = table(rates.reshape(-1))
            shape = (*rates.shape, len(self.times))
            return y.reshape(shape), dy.reshape(shape)

        return SampledInput(plasma, slope, convolve)

    def delayed(self, seconds: Tensor) -> SampledInput:
        """The curve delayed by ``seconds`` ``(n,)``, one delay per voxel."""
        at = self.times[None] - seconds[:, None]
        plasma, slope = self._interpolated(at)
        return SampledInput(
            plasma, slope, lambda rates: self._delays(rates, at - self._table_shift_s)
        )

    def shifted(self, seconds: float) -> InputCurve:
        """The curve delayed by ``seconds`` for all voxels; cached, because every batch uses its
        tables.
        """
        if seconds not in self._shifted:
            child = InputCurve(self.aif.delayed(seconds), self.times.cpu().numpy(), self.device)
            child._table_shift_s, child.__dict__["_delays"] = (
                self._table_shift_s + seconds,
                self._delays,
            )
            self._shifted[seconds] = child
        return self._shifted[seconds]

    @cached_property
    def _delays(self) -> DelayTable:
        return DelayTable(self.nodes, self.values)

    def _interpolated(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """Value and slope of the curve: zero before it, its last value after it."""
        i = (torch.searchsorted(self.nodes, at, right=True) - 1).clamp(0, len(self.nodes) - 2)
        steep = self.values.diff() / self.nodes.diff()
        over = at >= self.nodes[-1]
        inside = (at >= self.nodes[0]) & ~over
        straight = self.values[i] + steep[i] * (at - self.nodes[i])
        slope = torch.where(inside, steep[i], 0.0)
        value = torch.where(inside, straight, torch.where(over, self.values[-1], 0.0))
        return value, slope

    @cached_property
    def plasma(self) -> Tensor:
        """Cp at every frame, ``(1, t)``."""
        return self._interpolated(self.times[None])[0]

    @cached_property
    def plasma_integral(self) -> Tensor:
        """``int Cp`` to every frame, ``(1, t)``."""
        return self._integrate_to(self.times)[None]

    @cached_property
    def plasma_double_integral(self) -> Tensor:
        """``int int Cp`` to every frame, ``(1, t)``; trapezoids of the exact integral, on curve and
        frames together.
        """
        grid = torch.unique(torch.cat([self.nodes, self.times]))
        inner = self._integrate_to(grid)
        running = torch.cat(
            [inner.new_zeros(1), (grid.diff() * (inner[1:] + inner[:-1]) / 2).cumsum(0)]
        )
        return running[torch.searchsorted(grid, self.times)][None]

    def _integrate_to(self, times: Tensor) -> Tensor:
        """Exact integral of the curve from its beginning, ``(t,)``."""
        pieces = self.nodes.diff() * (self.values[1:] + self.values[:-1]) / 2
        running = torch.cat([pieces.new_zeros(1), pieces.cumsum(0)])
        i = (torch.searchsorted(self.nodes, times, right=True) - 1).clamp_min(0)
        value = self._interpolated(times)[0]
        return torch.where(
            times > self.nodes[0],
            running[i] + (times - self.nodes[i]) * (self.values[i] + value) / 2,
            0.0,
        )

    def integral(self, C: Tensor) -> Tensor:
        """Running integral of measured curves ``(n, t)`` by trapezoids, from the first frame."""
        pieces = self.times.diff() * (C[:, 1:] + C[:, :-1]) / 2
        return torch.cat([torch.zeros_like(C[:, :1]), pieces.cumsum(1)], dim=1)


def linear_fit(C: Tensor, columns: list[Tensor]) -> Tensor:
    """Linear least squares of every curve.

    Args:
        C: data, ``(n, t)``.
        columns: regressors, ``(1 or n, t)`` each.

    Returns:
        Coefficients, ``(n, columns)``.
    """
    X = torch.stack([c.expand_as(C) for c in columns], dim=1)
    scale = X.square().sum(2, keepdim=True).sqrt().clamp_min(1e-30)
    X = X / scale
    # a ridge at round-off keeps nearly collinear columns from making the batch singular
    normal = X @ X.transpose(1, 2) + 1e-9 * torch.eye(X.shape[1], dtype=X.dtype, device=X.device)
    right = (X * C[:, None]).sum(2)
    return torch.linalg.solve(normal, right) / scale[..., 0]
