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

from nanopinn.inference.pinn.tangents import LinearSystem
from nanopinn.solvers.linear import SolverError

#: Told in words of what a network had to recover from.
EventCallback = Callable[[str], None]


@dataclass(frozen=True)
class KrylovSolution:
    """Fields of a network, with their residual over the forcing, worst of all, and the number of its layers."""

    v: Tensor
    residual: float
    layers: int


@dataclass(frozen=True)
class KrylovSolver:
    """How deep a network grows: ``most`` layers, fewer once its residual is below ``enough`` of the forcing.

    Attributes:
        restarts: from the last good weights, where a layer holds numbers that are not finite.
    """

    max_iterations: int
    tolerance: float = 1e-5
    max_restarts: int = 3

    def solve(self, problem: LinearSystem, on_event: EventCallback) -> KrylovSolution:
        """Grow a network on a standing problem.

        Raises:
            SolverError: numbers that are not finite, again and again.
        """
        rhs = problem.rhs
        good, r, size = torch.zeros_like(rhs), rhs, problem.norm(rhs).clamp_min(1e-300)
        directions: list[tuple[Tensor, Tensor, Tensor]] = []
        again = 0
        for k in range(self.max_iterations):
            error = float((problem.norm(r) / size).max())
            if error <= self.tolerance:
                return KrylovSolution(good, error, k)
            h, w, t = _orthogonalise(problem, problem.precondition(r), directions)
            c = _dot(t, r)
            v, left = good + c * h, r - c * w
            if bool(torch.isfinite(left).all() & torch.isfinite(v).all()):
                good, r, directions = v, left, [*directions, (h, w, t)][-problem.truncation :]
                continue
            again += 1
            if again > self.max_restarts:
                raise SolverError(
                    f"a network met numbers that are not finite {again} times, last in layer {k + 1}"
                )
            on_event(
                f"layer {k + 1} held numbers that are not finite: went on from the last good weights"
            )
            r, directions = rhs - problem.apply(good), []
        return KrylovSolution(good, float((problem.norm(r) / size).max()), self.max_iterations)


def solve_in_batches(
    layers: KrylovSolver, problem: LinearSystem, on_event: EventCallback
) -> KrylovSolution:
    """The same in as few parts as the device's memory takes, on the CPU where it takes none.

    Raises:
        torch.OutOfMemoryError: not even the CPU has room for one tangent.
    """
    count = problem.rhs.shape[0]
    home = device_of(problem)
    at_once, device = count, home
    while True:
        try:
            here = problem if device == home else problem.to(device)
            parts = [
                layers.solve(here.slice(i, i + at_once), on_event) for i in range(0, count, at_once)
            ]
            v = torch.cat([p.v for p in parts])
            return KrylovSolution(
                move_to_device(v, home),
                max(p.residual for p in parts),
                max(p.layers for p in parts),
            )
        except torch.OutOfMemoryError:
            if at_once > 1:
                at_once = -(-at_once // 2)
                on_event(f"memory ran out: {at_once} of {count} tangents at once from here")
            elif device != "cpu":
                at_once, device = count, "cpu"
                on_event("the GPU's memory ran out with a single tangent: worked out on the CPU")
            else:
                raise


def device_of(problem: LinearSystem) -> str:
    return str(problem.rhs.device)


def move_to_device(v: Tensor, device: str) -> Tensor:
    return v.to(device)


def _orthogonalise(
    problem: LinearSystem, h: Tensor, directions: list[tuple[Tensor, Tensor, Tensor]]
) -> tuple[Tensor, Tensor, Tensor]:
    """A feature of unit size that shares nothing with those before, its image, and what it is weighed with."""
    w = problem.apply(h)
    for h_k, w_k, t_k in directions:
        shared = _dot(t_k, w)
        h, w = h - shared * h_k, w - shared * w_k
    t = problem.test_vector(h, w)
    size = _dot(t, w).clamp_min(torch.finfo(h.dtype).tiny).sqrt()
    return h / size, w / size, t / size


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(dim=1).reshape(-1, *(1,) * (a.dim() - 1))
