"""Kinetic models as impulse responses, convolved with a piecewise-linear plasma curve.

    I(t) = b delta(t) + sum_i a_i exp(-k_i t),    C = I * Cp

:class:`InputCurve` holds the values, integrals and exponential convolutions of the plasma curve at
the frames of a scan. :data:`KINETIC_QUANTITIES` are the quantities of the models with their units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

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


@dataclass(frozen=True)
class KineticQuantity:
    """A kinetic quantity.

    Attributes:
        name: of the map.
        unit: customary unit.
        per_si: customary units per SI unit (1/s, 1 or s).
        description: one phrase.
        caplex_id: identifier in OSIPI_CAPLEX, https://osipi.github.io/OSIPI_CAPLEX/quantities
            (Dickie 2024, MRM 91:1761).
        caplex_name: name there.
    """

    name: str
    unit: str
    per_si: float
    description: str
    caplex_id: str
    caplex_name: str

    @property
    def caplex(self) -> dict[str, str]:
        """Identifier and name for sidecars."""
        return {"Id": self.caplex_id, "Name": self.caplex_name}


KINETIC_QUANTITIES = {
    q.name: q
    for q in (
        KineticQuantity(
            "Ktrans",
            "1/min",
            60.0,
            "volume transfer constant",
            "Q.PH1.008",
            "Volume transfer constant",
        ),
        KineticQuantity(
            "ve",
            "1",
            1.0,
            "volume fraction of the extravascular extracellular space",
            "Q.PH1.001.[e]",
            "Relative volume fraction",
        ),
        KineticQuantity(
            "vp",
            "1",
            1.0,
            "volume fraction of blood plasma",
            "Q.PH1.001.[p]",
            "Relative volume fraction",
        ),
        KineticQuantity(
            "Fp", "mL/min/100mL", 6000.0, "blood plasma flow", "Q.PH1.002", "Blood plasma flow"
        ),
        KineticQuantity(
            "PS",
            "mL/min/100mL",
            6000.0,
            "permeability surface area product",
            "Q.PH1.004",
            "Permeability surface area product",
        ),
        KineticQuantity(
            "delay",
            "s",
            1.0,
            "arrival after the arterial input",
            "Q.PH1.007",
            "Arterial delay time",
        ),
    )
}


@dataclass(frozen=True)
class ImpulseResponse:
    """Impulse responses of ``n`` voxels with ``m`` exponentials.

    Attributes:
        plasma: b, ``(n,)``.
        amplitudes: a, ``(n, m)``, 1/s.
        rates: k, ``(n, m)``, 1/s.
        jacobian: derivatives of b, every a and every k by the parameters, ``(n, 1 + 2 m, p)``.
    """

    plasma: Tensor
    amplitudes: Tensor
    rates: Tensor
    jacobian: Tensor


class KineticModel(Protocol):
    """A kinetic model: a module in :mod:`nanopinn.imaging.dce.models` with these names.

    Attributes:
        NAME: by which the model is chosen.
        CAPLEX: identifier in OSIPI_CAPLEX.
        NAMES: parameters, of :data:`KINETIC_QUANTITIES`.
        LOWER: bounds of the parameters, flows in 1/s.
        UPPER: bounds of the parameters, flows in 1/s.
        DERIVED: quantities that follow from the parameters.
    """

    NAME: str
    CAPLEX: str
    NAMES: tuple[str, ...]
    LOWER: tuple[float, ...]
    UPPER: tuple[float, ...]
    DERIVED: tuple[str, ...]

    def impulse_response(self, parameters: Tensor) -> ImpulseResponse:
        """Impulse response of parameters ``(n, p)``."""
        ...

    def initial_guesses(self, C: Tensor, curve: InputCurve) -> tuple[Tensor, ...]:
        """Initial parameters of fits of ``C`` ``(n, t)``, ``(n, p)`` each; the best fit is kept."""
        ...

    def derived(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Values ``(n, d)`` of ``DERIVED`` and their Jacobian ``(n, d, p)``."""
        ...


def evaluate(
    model: KineticModel, parameters: Tensor, curve: InputCurve, *, with_delay: bool = False
) -> tuple[Tensor, Tensor]:
    """Tissue concentration of a model and its Jacobian.

    Args:
        model: kinetic model.
        parameters: ``(n, p)``; with ``with_delay`` one more column, the delay in s.
        curve: plasma curve and frames.
        with_delay: the last parameter is a delay.

    Returns:
        Concentration ``(n, t)``, mM, and Jacobian ``(n, p, t)``.
    """
    p = len(model.NAMES)
    response = model.impulse_response(parameters[:, :p])
    sampled = curve.delayed(parameters[:, p]) if with_delay else curve.at_frames
    y, dy = sampled.convolve(response.rates)
    plasma = sampled.plasma.expand(len(parameters), -1)
    a = response.amplitudes[..., None]
    C = response.plasma[:, None] * plasma + (a * y).sum(1)
    J = response.jacobian.transpose(1, 2) @ torch.cat([plasma[:, None], y, a * dy], dim=1)
    if with_delay:
        flowing = plasma[:, None] - response.rates[..., None] * y  # dy/dt
        later = -(response.plasma[:, None] * sampled.slope + (a * flowing).sum(1))
        J = torch.cat([J, later[:, None]], dim=1)
    return C, J


def no_derived_quantities(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """``derived`` of models without derived quantities."""
    n, p = parameters.shape
    return parameters.new_zeros((n, 0)), parameters.new_zeros((n, 0, p))


def ktrans_of_flow_limited_exchange(Fp: Tensor, PS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ktrans = Fp PS/(Fp + PS) of a plasma compartment with finite flow, and its derivatives by Fp
    and PS.
    """
    both = (Fp + PS).clamp_min(1e-30)
    return Fp * PS / both, (PS / both) ** 2, (Fp / both) ** 2
