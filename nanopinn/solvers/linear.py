"""Matrix-free Krylov solvers for batches of right-hand sides, on the CPU and the GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nanopinn.errors import NanopinnError

Operator = Callable[[Tensor], Tensor]
#: Applies an operator to the first tensor and writes the result to the second.
InPlaceOperator = Callable[[Tensor, Tensor], None]
#: Number of vectors that BiCGStab works with.
BICGSTAB_WORK_VECTORS = 7


class SolverError(NanopinnError, ArithmeticError):
    """A linear solve that did not reach its tolerance."""


@dataclass(frozen=True)
class LinearSolution:
    """Solution of a linear system.

    Attributes:
        x: the solution.
        iterations: of the Krylov method.
        residual: the largest relative residual over the right-hand sides.
    """

    x: Tensor
    iterations: int
    residual: float


def _dot(a: Tensor, b: Tensor, batch_dims: int) -> Tensor:
    """Inner product of each right-hand side, shaped to scale it."""
    products = (
        torch.linalg.vecdot(a.flatten(batch_dims), b.flatten(batch_dims))
        if batch_dims
        else torch.dot(a.flatten(), b.flatten())
    )
    return products.reshape(a.shape[:batch_dims] + (1,) * (a.dim() - batch_dims))


def _relative_residual(r: Tensor, scale: Tensor, batch_dims: int) -> float:
    """The largest norm of a residual over its scale."""
    return float((_dot(r, r, batch_dims).sqrt() / scale).max())


def conjugate_gradients(
    A: Operator,
    b: Tensor,
    inverse_diagonal: Tensor,
    x0: Tensor | None = None,
    *,
    tol: float = 1e-11,
    max_iterations: int = 4000,
    batch_dims: int = 0,
) -> LinearSolution:
    """Solve the symmetric positive definite ``A x = b`` with diagonal preconditioning.

    Args:
        A: the operator.
        b: right-hand sides.
        inverse_diagonal: of A.
        x0: initial guess; zero if None.
        tol: relative residual.
        max_iterations: after which the solve fails.
        batch_dims: number of leading axes of ``b`` that count right-hand sides.

    Raises:
        SolverError: the tolerance was not reached.
    """
    x = torch.zeros_like(b) if x0 is None else x0.clone()
    r = b - A(x)
    scale = _dot(b, b, batch_dims).sqrt().clamp_min(torch.finfo(b.dtype).tiny)
    z = inverse_diagonal * r
    d, rz = z.clone(), _dot(r, z, batch_dims)
    tiny = torch.finfo(b.dtype).tiny
    for k in range(max_iterations):
        if k % 5 == 0 and (error := _relative_residual(r, scale, batch_dims)) <= tol:
            return LinearSolution(x, k, error)
        Ad = A(d)
        alpha = rz / _dot(d, Ad, batch_dims).clamp_min(tiny)
        # in place, because the allocation of a field takes ten times as long as its arithmetic
        x.addcmul_(alpha, d)
        r.addcmul_(alpha, Ad, value=-1)
        torch.mul(inverse_diagonal, r, out=z)
        rz_new = _dot(r, z, batch_dims)
        d.mul_(rz_new / rz.clamp_min(tiny)).add_(z)
        rz = rz_new
    raise SolverError(
        "conjugate gradients stopped at a relative residual of"
        f" {_relative_residual(r, scale, batch_dims):.1e}"
    )


def bicgstab(
    A: InPlaceOperator,
    b: Tensor,
    precondition: InPlaceOperator,
    x0: Tensor | None = None,
    *,
    tol: float = 1e-10,
    max_iterations: int = 500,
    batch_dims: int = 0,
    memory: Tensor | None = None,
) -> LinearSolution:
    """Solve the non-symmetric ``A x = b`` with a preconditioner.

    Right-hand sides converge together; one that has converged is frozen by its zero residual.

    Args:
        A: the operator.
        b: right-hand sides.
        precondition: an approximate inverse of A.
        x0: initial guess; zero if None.
        tol: relative residual.
        max_iterations: after which the solve fails.
        batch_dims: number of leading axes of ``b`` that count right-hand sides.
        memory: to work in, ``(BICGSTAB_WORK_VECTORS, *b.shape)``; it holds the solution.

    Raises:
        SolverError: the tolerance was not reached.
    """
    x, r, shadow, p, y, v, t = (
        b.new_empty((BICGSTAB_WORK_VECTORS, *b.shape)) if memory is None else memory
    )
    if x0 is None:
        x.zero_()
        r.copy_(b)
    else:
        A(x.copy_(x0), r)
        r.neg_().add_(b)
    scale = _dot(b, b, batch_dims).sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    if (error := _relative_residual(r, scale, batch_dims)) <= tol:
        return LinearSolution(x, 0, error)
    shadow.copy_(r)
    p.copy_(r)
    rho = _dot(shadow, r, batch_dims)
    for k in range(1, max_iterations + 1):
        precondition(p, y)
        A(y, v)
        alpha = _safe_ratio(rho, _dot(shadow, v, batch_dims))
        x.addcmul_(alpha, y)
        r.addcmul_(alpha, v, value=-1)
        precondition(r, y)
        A(y, t)
        omega = _safe_ratio(_dot(t, r, batch_dims), _dot(t, t, batch_dims))
        x.addcmul_(omega, y)
        r.addcmul_(omega, t, value=-1)
        if (error := _relative_residual(r, scale, batch_dims)) <= tol:
            return LinearSolution(x, k, error)
        rho_new = _dot(shadow, r, batch_dims)
        beta = _safe_ratio(rho_new, rho) * _safe_ratio(alpha, omega)
        p.addcmul_(omega, v, value=-1).mul_(beta).add_(r)
        rho = rho_new
    raise SolverError(
        f"BiCGStab stopped at a relative residual of {error:.1e} after {max_iterations} iterations"
    )


def _safe_ratio(a: Tensor, b: Tensor) -> Tensor:
    """``a / b``, zero where b is zero."""
    return (a / b).masked_fill_(b == 0, 0.0)
