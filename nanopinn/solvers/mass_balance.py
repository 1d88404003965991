"""Where the mass went."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PoolMassBalance:
    """Totals over cells and time, per pool ``(pool,)``, as concentration times cells: ``entered =
    lost + outflow + stored``, summed.

    ``lost`` is what left by walls, lymph and decay (not to another pool); ``outflow`` what crossed
    the boundary of the box; ``stored`` what was there in the end over what was there at the start.
    """

    entered: Tensor
    lost: Tensor
    outflow: Tensor
    stored: Tensor

    @property
    def error(self) -> float:
        """Imbalance of all pools together, over the larger of what entered and what was exchanged."""
        entered, lost, outflow, stored = (
            float(t.sum()) for t in (self.entered, self.lost, self.outflow, self.stored)
        )
        return abs(entered - lost - outflow - stored) / max(
            abs(entered), abs(lost), abs(stored), 1e-300
        )

    def table(self, names: tuple[str, ...], scale: float = 1.0) -> str:
        """The totals times ``scale`` (a cell's volume makes kg of kg/m3), pool by pool."""
        rows = torch.stack([self.entered, self.lost, self.outflow, self.stored], dim=-1) * scale
        rows = torch.cat([rows, rows.sum(dim=0, keepdim=True)])
        head = f"{'pool':20s}{'entered':>13s}{'lost':>13s}{'outflow':>13s}{'stored':>13s}"
        lines = [
            f"{name:20s}" + "".join(f"{v:13.4e}" for v in row)
            for name, row in zip((*names, "all"), rows.tolist(), strict=True)
        ]
        return "\n".join([head, *lines, f"imbalance {self.error:.1e}"])
