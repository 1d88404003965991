"""The fields as a convolutional network that sees the tissue maps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class FieldNetwork(nn.Module):
    """Dilated 3-D convolutions from feature maps to the channels of a field.

    Voxel heterogeneity comes in through the features, so a small network serves; three dilations reach
    seven voxels, beyond the length over which walls let the flow act. The last layer starts at zero: an
    untrained network adds nothing to the local solution that it corrects.

    Args:
        features: channels in.
        outputs: channels out.
        width: hidden channels.
        dilations: of the hidden convolutions, in voxels.
        generator: of the initial weights.
    """

    def __init__(
        self, features: int, outputs: int, *, width: int = 24, dilations: tuple[int, ...] = (1, 2, 4),
        generator: torch.Generator,
    ) -> None:  # fmt: skip
        super().__init__()
        self.enter = nn.Conv3d(features, width, 1)
        self.hidden = nn.ModuleList(nn.Conv3d(width, width, 3, padding=d, dilation=d) for d in dilations)
        self.leave = nn.Conv3d(width, outputs, 1)
        self.skip = nn.Conv3d(features, outputs, 1, bias=False)
        for layer in (self.enter, *self.hidden):
            _start(layer, generator)
        for last in (self.leave, self.skip):
            nn.init.zeros_(last.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """``(features, x, y, z)`` to ``(outputs, x, y, z)``."""
        x = features[None]
        h = torch.tanh(self.enter(x))
        for layer in self.hidden:
            h = h + torch.tanh(layer(h))
        return (self.leave(h) + self.skip(x))[0]


class Relaxation(nn.Module):
    """The network's last layers: relaxations by the finite-volume residual itself, with learned steps.

        v_{k+1} = v_k - w_k P^{-1} (A v_k - f) + b_k (v_k - v_{k-1})

    Convolutions are good at what is smooth, relaxations at what is rough from voxel to voxel; the steps
    ``w`` and momenta ``b`` are trained with the convolutions, on the same residual.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.full((layers,), 0.9, dtype=torch.float64))
        self.momentum = nn.Parameter(torch.full((layers,), 0.1, dtype=torch.float64))

    def forward(self, v: Tensor, residual: Callable[[Tensor], Tensor]) -> Tensor:
        """Relax a field whose preconditioned residual is ``residual(v)``."""
        before = v
        for w, b in zip(self.step, self.momentum, strict=True):
            v, before = v - w * residual(v) + b * (v - before), v
        return v


def _start(layer: nn.Module, generator: torch.Generator) -> None:
    assert isinstance(layer, nn.Conv3d)
    fan_in = layer.weight[0].numel()
    with torch.no_grad():
        draw = torch.empty_like(layer.weight, device="cpu").normal_(0.0, fan_in**-0.5, generator=generator)
        layer.weight.copy_(draw)
        assert layer.bias is not None
        layer.bias.zero_()


def normalised(features: Tensor) -> Tensor:
    """Features ``(c, x, y, z)`` with zero mean and unit spread each; constants become zero."""
    flat = features.flatten(1)
    mean, spread = flat.mean(dim=1), flat.std(dim=1)
    safe = torch.where(spread > 1e-12 * mean.abs().clamp_min(1e-300), spread, torch.ones_like(spread))
    return (features - mean[:, None, None, None]) / safe[:, None, None, None]
