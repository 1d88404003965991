"""Problems in closed form for tests that need only residuals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch

from nanopinn.inference.unknowns import Unknown, UnknownSet


def unknowns(*names: str, sd: float = 1.0) -> UnknownSet:
    """Log-normal unknowns of median 1."""
    return UnknownSet(tuple(Unknown(n, f"label of {n}", "1", 1.0, "log", 1.0, sd) for n in names))


@dataclass(frozen=True)
class Closed:
    """``residual(theta)`` in place of a solver; tangents by automatic differentiation."""

    unknowns: UnknownSet
    of: Callable[[torch.Tensor], torch.Tensor]

    @property
    def observations(self) -> int:
        return len(self.of(torch.zeros(len(self.unknowns), dtype=torch.float64)))

    def solver(self, before: object = None) -> None:
        return None

    def predict(
        self, theta: np.ndarray, forward: None, *, tangents: bool = False
    ) -> SimpleNamespace:
        at = torch.as_tensor(theta, dtype=torch.float64)
        jacobian = torch.func.jacfwd(self.of)(at) if tangents else None
        residual = self.of(at)
        return SimpleNamespace(
            residual=residual, jacobian=jacobian, chi2=float(residual @ residual)
        )

    def scalars(self, theta: np.ndarray) -> Mapping[str, float]:
        return dict(zip(self.unknowns.names, np.exp(theta), strict=True))


def gaussian(seed: int = 0, m: int = 3, n: int = 8) -> tuple[Closed, np.ndarray, np.ndarray]:
    """A linear problem, its posterior mean and its covariance, from the normal equations."""
    rng = np.random.default_rng(seed)
    A, y = rng.normal(size=(n, m)), rng.normal(size=n)
    problem = Closed(
        unknowns(*"abcdefgh"[:m], sd=0.7), lambda th: torch.as_tensor(A) @ th - torch.as_tensor(y)
    )
    covariance = np.linalg.inv(A.T @ A + np.eye(m) / 0.7**2)
    return problem, covariance @ A.T @ y, covariance
