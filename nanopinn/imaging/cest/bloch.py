"""Z-spectra by the Bloch-McConnell equations under continuous saturation, in closed form.

For every pool, with offset d = w - w_rf and saturation w1 about x:

    dMx/dt = -R2 Mx - d My + exchange,   dMy/dt = d Mx - R2 My + w1 Mz + exchange,
    dMz/dt = R1 (M0 - Mz) - w1 My + exchange

Protons exchange from a solute pool to water at rate k and back at rate k f, with
f = M0_pool / M0_water. In Laplace space each solute pool is eliminated by the inverse of a 3 x 3
matrix, which leaves a 3 x 3 matrix W(s) for water. The solution is the residue at s = 0 (the steady
state) and those at the three roots of det W near the modes of water alone. The modes of the solutes
are neglected because they decay with exp(-k t). No matrix exponential is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nanopinn.imaging.cest.agent import CestAgent

#: Gyromagnetic ratio of protons in water over 2 pi, Hz/T (CODATA 2018, shielded).
GAMMA_HZ_PER_T = 42.57638474e6
_NEWTON = 10
#: Step of the derivative by s, 1/s: far below every rate, far above round-off.
_STEP = 1e-3


@dataclass(frozen=True)
class Saturation:
    """A block pulse of saturation.

    Attributes:
        field_T: main magnetic field, T.
        B1_uT: amplitude, uT.
        seconds: duration, s.
    """

    field_T: float
    B1_uT: float
    seconds: float


def simulate_z_spectra(
    agent: CestAgent,
    saturation: Saturation,
    offsets_ppm: Tensor,
    *,
    pH: Tensor,
    molar: Tensor,
    T1_s: Tensor,
    T2_s: Tensor,
    B1: Tensor | None = None,
) -> Tensor:
    """Compute Z-spectra: water magnetisation after saturation over that at equilibrium.

    Args:
        agent: the contrast agent.
        saturation: the pulse.
        offsets_ppm: from water, ``(offset,)`` or ``(n, offset)``, ppm.
        pH: of every spectrum, ``(n,)``.
        molar: concentration of the agent, ``(n,)``, M.
        T1_s: longitudinal relaxation time of water, ``(n,)``, s.
        T2_s: transverse relaxation time of water, ``(n,)``, s.
        B1: true over nominal amplitude, ``(n,)``; 1 if absent.

    Returns:
        ``(n, offset)``.
    """
    per_ppm = 2 * torch.pi * GAMMA_HZ_PER_T * saturation.field_T * 1e-6
    w1 = (
        2
        * torch.pi
        * GAMMA_HZ_PER_T
        * 1e-6
        * saturation.B1_uT
        * (torch.ones_like(pH) if B1 is None else B1)
    )
    offsets = torch.as_tensor(offsets_ppm, dtype=torch.float64)
    system = _BlochMcConnellSystem(
        agent,
        per_ppm,
        offsets.expand(len(pH), -1),
        w1[:, None],
        agent.rates(pH),
        agent.fractions(molar),
        T1_s,
        T2_s,
    )
    return system.magnetisation_after(saturation.seconds)


class _BlochMcConnellSystem:
    """Matrix W(s) of water and its sources, for every spectrum and offset ``(n, offset)``."""

    def __init__(
        self,
        agent: CestAgent,
        per_ppm: float,
        offsets: Tensor,
        w1: Tensor,
        rates: Tensor,
        fractions: Tensor,
        T1_s: Tensor,
        T2_s: Tensor,
    ) -> None:
        self.w, self.d0 = w1, -per_ppm * offsets
        self.R1, self.R2 = 1 / T1_s[:, None], 1 / T2_s[:, None]
        self.back = (rates * fractions).sum(1, keepdim=True)
        self.solute_R1 = agent.R1_per_s
        # of every pool: offset, exchange rate, fraction, R1 and R2 including exchange
        self.pools = []
        for i, p in enumerate(agent.pools):
            k, f = rates[:, i, None], fractions[:, i, None]
            self.pools.append(
                (per_ppm * p.ppm + self.d0, k, f, agent.R1_per_s + k, agent.R2_per_s + k)
            )

    def _evaluate_laplace(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``det W``, and the numerators of z for the initial state and, to be divided by s, for
        recovery.
        """
        a, c = s + self.R2 + self.back, s + self.R1 + self.back
        p, u, x, q, r, v = a, a, c, self.d0 + 0 * s, 0 * s, self.w + 0 * s
        start, recovery = [0 * s, 0 * s, 1 + 0 * s], [0 * s, 0 * s, self.R1 + 0 * s]
        for d, k, f, R1, R2 in self.pools:
            b, e = s + R2, s + R1
            det = b * (b * e + self.w**2) + d**2 * e
            column = (
                -d * self.w / det,
                b * self.w / det,
                (b**2 + d**2) / det,
            )  # of the pool's inverse, for its z
            g = k**2 * f / det
            p, u, x = p - (b * e + self.w**2) * g, u - b * e * g, x - (b**2 + d**2) * g
            q, r, v = q + d * e * g, r + d * self.w * g, v + b * self.w * g
            for i in range(3):
                start[i] = start[i] + k * f * column[i]
                recovery[i] = recovery[i] + k * f * self.solute_R1 * column[i]
        det = p * (u * x + v**2) + q**2 * x - 2 * q * r * v - u * r**2
        row = (-q * v - u * r, -p * v + q * r, p * u + q**2)  # of the adjugate, for water's z
        return (
            det,
            sum(c * h for c, h in zip(row, start, strict=True)),
            sum(c * h for c, h in zip(row, recovery, strict=True)),
        )  # type: ignore[return-value]

    def magnetisation_after(self, seconds: float) -> Tensor:
        """z of water after ``seconds`` of saturation, from equilibrium."""
        zero = torch.zeros_like(self.d0)
        det, _, recovery = self._evaluate_laplace(zero)
        z = recovery / det
        effective = (self.d0**2 + self.w**2).sqrt()
        along = (self.d0 / effective.clamp_min(1e-12)) ** 2
        slow = -(self.R1 * along + self.R2 * (1 - along))
        z = z + self._residue_near(slow, seconds)
        fast = torch.complex(-(self.R2 * (1 + along) + self.R1 * (1 - along)) / 2, effective)
        return z + 2 * self._residue_near(fast, seconds).real

    def _residue_near(self, s: Tensor, seconds: float) -> Tensor:
        """Residue at the root of ``det W`` nearest to ``s``, found by Newton's method."""
        for _ in range(_NEWTON):
            s = s - self._evaluate_laplace(s)[0] / self._slope(s)
        _, start, recovery = self._evaluate_laplace(s)
        return torch.exp(s * seconds) * (start + recovery / s) / self._slope(s)

    def _slope(self, s: Tensor) -> Tensor:
        return (self._evaluate_laplace(s + _STEP)[0] - self._evaluate_laplace(s - _STEP)[0]) / (
            2 * _STEP
        )
