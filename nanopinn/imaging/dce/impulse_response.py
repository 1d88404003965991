"""Kinetic models as impulse responses: a plasma term and a few decaying exponentials; and the
quantities of the models with their units.

I(t) = b delta(t) + sum_i a_i exp(-k_i t),    C = I * Cp
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nanopinn.imaging.dce.plasma_curve import InputCurve


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


QUANTITIES = {
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
        NAMES: parameters, of :data:`QUANTITIES`.
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
