"""The fields as networks whose last layer is eliminated.

    v = sum_k c_k h_k,      h_k = P^-1 (f - A sum_{i<k} c_i h_i)

Hidden layer k is a stencil that varies from cell to cell: the finite-volume residual that the layers before leave,
answered by each cell on its own (P). In time the features are responses to plasma at random rates (:mod:`timebasis`).
Neither is trained; the weights ``c`` of the last layer are those that make the residual of every cell least, worked out
after every layer (variable projection), so that adding a layer never makes it worse. Those of the pressure, which is
symmetric, are the best of all layers together; the pools' are the best of the last four given the others. Layers are
added until the residual is small enough. Trained convolutions in their place take four times longer to a residual two
thousand times larger (``benchmarks/pinn_formulations.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nanopinn.inference.pinn.tangents import Standing
from nanopinn.solvers.linear import SolverError

#: Told in words of what a network had to recover from.
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Learned:
    """Fields of a network, with their residual over the forcing, worst of all, and the number of its layers."""

    v: Tensor
    residual: float
    layers: int


@dataclass(frozen=True)
class Layers:
    """How deep a network grows: ``most`` layers, fewer once its residual is below ``enough`` of the forcing.

    Attributes:
        restarts: from the last good weights, where a layer holds numbers that are not finite.
    """

    most: int
    enough: float = 1e-5
    restarts: int = 3

    def learn(self, problem: Standing, tell: Tell) -> Learned:
        """Grow a network on a standing problem.

        Raises:
            SolverError: numbers that are not finite, again and again.
        """
        right = problem.right
        good, r, size = torch.zeros_like(right), right, problem.size(right).clamp_min(1e-300)
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        again = 0
        for k in range(self.most):
            error = float((problem.size(r) / size).max())
            if error <= self.enough:
                return Learned(good, error, k)
            h, w, t = _apart(problem, problem.feature(r), kept)
            c = _dot(t, r)
            v, left = good + c * h, r - c * w
            if bool(torch.isfinite(left).all() & torch.isfinite(v).all()):
                good, r, kept = v, left, [*kept, (h, w, t)][-problem.memory :]
                continue
            again += 1
            if again > self.restarts:
                raise SolverError(
                    f"a network met numbers that are not finite {again} times, last in layer {k + 1}"
                )
            tell(
                f"layer {k + 1} held numbers that are not finite: went on from the last good weights"
            )
            r, kept = right - problem.image(good), []
        return Learned(good, float((problem.size(r) / size).max()), self.most)


def learn_in_memory(layers: Layers, problem: Standing, tell: Tell) -> Learned:
    """The same in as few parts as the device's memory takes, on the CPU where it takes none.

    Raises:
        torch.OutOfMemoryError: not even the CPU has room for one tangent.
    """
    count = problem.right.shape[0]
    home = device_of(problem)
    at_once, device = count, home
    while True:
        try:
            here = problem if device == home else problem.to(device)
            parts = [
                layers.learn(here.part(i, i + at_once), tell) for i in range(0, count, at_once)
            ]
            v = torch.cat([p.v for p in parts])
            return Learned(
                back_to(v, home), max(p.residual for p in parts), max(p.layers for p in parts)
            )
        except torch.OutOfMemoryError:
            if at_once > 1:
                at_once = -(-at_once // 2)
                tell(f"memory ran out: {at_once} of {count} tangents at once from here")
            elif device != "cpu":
                at_once, device = count, "cpu"
                tell("the GPU's memory ran out with a single tangent: worked out on the CPU")
            else:
                raise


def device_of(problem: Standing) -> str:
    return str(problem.right.device)


def back_to(v: Tensor, device: str) -> Tensor:
    return v.to(device)


def _apart(
    problem: Standing, h: Tensor, kept: list[tuple[Tensor, Tensor, Tensor]]
) -> tuple[Tensor, Tensor, Tensor]:
    """A feature of unit size that shares nothing with those before, its image, and what it is weighed with."""
    w = problem.image(h)
    for h_k, w_k, t_k in kept:
        shared = _dot(t_k, w)
        h, w = h - shared * h_k, w - shared * w_k
    t = problem.test(h, w)
    size = _dot(t, w).clamp_min(torch.finfo(h.dtype).tiny).sqrt()
    return h / size, w / size, t / size


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(dim=1).reshape(-1, *(1,) * (a.dim() - 1))
