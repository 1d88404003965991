"""Methods that compute the tangents of all fields of one problem, compared with finite volumes.

Every row solves the same linear systems at the same point: the finite-volume estimate of one
phantom, with the kinetic maps and systematic errors at the end of the fit. The time basis is that
of the package unless the row says otherwise.

  trained     dilated convolutions of the tissue maps, then relaxation with trained step sizes;
              L-BFGS on the residual
  random      convolutions with random weights as additional search directions of the Krylov method
  both        trained convolutions, then the Krylov method
  eliminated  the package: truncated Krylov methods with preconditioned residuals as directions

Run: OMP_NUM_THREADS=1 python benchmarks/krylov_formulations.py [--seed 3] [--shape 14 14 10]
[--length-scale 1.2] [--only eliminated]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from nanopinn.imaging.imaging_data import ImagingInputs
from nanopinn.imaging.pipeline import make_maps
from nanopinn.inference.engine_driver import fit_fv
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.krylov.krylov_engine import KrylovSettings, TangentSolver
from nanopinn.inference.krylov.orthomin import (
    KrylovSolution,
    KrylovSolver,
    LinearSystem,
    PressureTangentSystem,
)
from nanopinn.inference.krylov.time_basis import TimeBasis
from nanopinn.inference.tumour_problem import Fields
from nanopinn.phantoms.synthetic_study import make_phantom
from nanopinn.settings import FitSettings, PhantomSettings
from nanopinn.studies.pose_study import pose_study


@dataclass(frozen=True)
class Effort:
    """Number of L-BFGS steps and relaxations of each trained network."""

    steps: tuple[int, int, int, int] = (24, 8, 8, 3)
    relaxations: tuple[int, int, int, int] = (20, 3, 4, 2)


NAMES = ("pressure", "contrast", "encapsulated", "released")


class Convolutions(nn.Module):
    """Dilated 3-D convolutions from the tissue maps and the cell-wise solution to the channels of a
    field.
    """

    def __init__(
        self, features: int, outputs: int, width: int, generator: torch.Generator, last: float
    ) -> None:
        super().__init__()
        self.enter = nn.Conv3d(features, width, 1)
        self.hidden = nn.ModuleList(
            nn.Conv3d(width, width, 3, padding=d, dilation=d) for d in (1, 2, 4)
        )
        self.leave = nn.Conv3d(width, outputs, 1)
        for layer, size in (
            (self.enter, 1.0),
            *((h, 1.0) for h in self.hidden),
            (self.leave, last),
        ):
            with torch.no_grad():
                layer.weight.normal_(
                    0.0, size * layer.weight[0].numel() ** -0.5, generator=generator
                )
                layer.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.enter(x[None]))
        for layer in self.hidden:
            h = h + torch.tanh(layer(h))
        return self.leave(h)[0]


class ConvolutionField:
    """The cell-wise solution of a linear system with a correction by convolutions."""

    def __init__(
        self, system: LinearSystem, maps: Tensor, last: float = 0.0, width: int = 20, seed: int = 0
    ) -> None:
        self.first = system.precondition(system.rhs)
        self.refine = self.first.shape[-1] // maps.shape[-1]
        self.scale = (
            self.first.flatten(1)
            .square()
            .mean(dim=1)
            .sqrt()
            .clamp_min(1e-300)
            .reshape(-1, *(1,) * (self.first.dim() - 1))
        )
        channels = self.to_channels(self.first / self.scale)
        flat = maps.flatten(1)
        map_sd = flat.std(dim=1).clamp_min(1e-12)[:, None, None, None]
        scaled_maps = (maps - flat.mean(dim=1)[:, None, None, None]) / map_sd
        self.features = torch.cat([scaled_maps, channels / channels.abs().amax()]).float()
        self.network = Convolutions(
            len(self.features), len(channels), width, torch.Generator().manual_seed(seed), last
        )

    def __call__(self) -> Tensor:
        return self.first + self.correction()

    def correction(self) -> Tensor:
        out = self.network(self.features).to(self.first)
        if self.refine == 1 and self.first.dim() > 4:
            return self.scale * out.reshape(self.first.shape)
        r, (m, X, Y, Z) = self.refine, self.first.shape
        parts = out.reshape(m, r, r, r, X // r, Y // r, Z // r).permute(0, 4, 1, 5, 2, 6, 3)
        return self.scale * parts.reshape(m, X, Y, Z)

    def to_channels(self, field: Tensor) -> Tensor:
        if field.dim() > 4:
            return field.flatten(0, 2)
        r, (m, X, Y, Z) = self.refine, field.shape
        return (
            field.reshape(m, X // r, r, Y // r, r, Z // r, r)
            .permute(0, 2, 4, 6, 1, 3, 5)
            .reshape(m * r**3, X // r, Y // r, Z // r)
        )


def tangent_loss(system: LinearSystem, v: Tensor, scale: Tensor) -> Tensor:
    """Energy of the pressure or mean square residual of the pools, each tangent scaled to one."""
    if isinstance(system, PressureTangentSystem):
        diagonal = (
            system.forcing.new_tensor(1.0)
            / system.precondition(torch.ones_like(system.forcing[:1])).mean()
        )
        return (
            (v * (system.apply(v) / 2 - system.rhs) / (scale.square() * diagonal))
            .flatten(1)
            .mean(dim=1)
            .sum()
        )
    r = system.rhs - system.apply(v)
    return (system.test_vector(r, r) * r).flatten(1).mean(dim=1).sum()


def train_convolutions(system: LinearSystem, maps: Tensor, steps: int, relaxations: int) -> Tensor:
    """Convolutions, then ``v <- v + w P^-1 (f - A v) + b (v - v_before)``, with weights, w and b
    trained by L-BFGS.
    """
    field = ConvolutionField(system, maps)
    w = torch.full((relaxations,), 0.9, dtype=torch.float64, requires_grad=True)
    b = torch.full((relaxations,), 0.1, dtype=torch.float64, requires_grad=True)

    def fields() -> Tensor:
        v = before = field()
        for k in range(relaxations):
            v, before = (
                v + w[k] * system.precondition(system.rhs - system.apply(v)) + b[k] * (v - before),
                v,
            )
        return v

    optimiser = torch.optim.LBFGS(
        [*field.network.parameters(), w, b],
        max_iter=steps,
        max_eval=2 * steps,
        history_size=20,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = tangent_loss(system, fields(), field.scale)
        loss.backward()
        return loss

    optimiser.step(closure)
    return fields().detach()


@dataclass(frozen=True)
class CorrectionSystem:
    """The linear system of the correction to a first guess, with extra search directions first."""

    inner: LinearSystem
    guess: Tensor
    extra: tuple[Tensor, ...] = ()

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    @property
    def rhs(self) -> Tensor:
        return self.inner.rhs - self.inner.apply(self.guess)

    @property
    def truncation(self) -> int:
        return self.inner.truncation + 2 * len(self.extra)

    def precondition(self, residual: Tensor) -> Tensor:
        directions = object.__getattribute__(self, "__dict__").setdefault("left", list(self.extra))
        return directions.pop(0) if directions else self.inner.precondition(residual)


class Formulation(TangentSolver):
    """The tangent solver of the package with another solution method."""

    how: str
    maps: Tensor

    def solve(self, name: str, system: LinearSystem) -> Tensor:
        v = self.solved(name, system)
        left = system.norm(system.rhs - system.apply(v)) / system.norm(system.rhs)
        self.residuals[name] = float(left.max())
        return v

    def solved(self, name: str, system: LinearSystem) -> Tensor:
        at = NAMES.index(name)
        if self.how == "trained":
            return train_convolutions(
                system, self.maps, Effort().steps[at], Effort().relaxations[at]
            )
        if self.how == "both":
            guess = train_convolutions(system, self.maps, 4, 2)
            return guess + self.krylov(CorrectionSystem(system, guess))
        if self.how == "random":
            with torch.no_grad():
                directions = tuple(
                    ConvolutionField(system, self.maps, last=1.0, seed=k).correction()
                    for k in range(4)
                )
            return self.krylov(CorrectionSystem(system, torch.zeros_like(system.rhs), directions))
        return self.krylov(system)

    def krylov(self, system: object) -> Tensor:
        found: KrylovSolution = self.solver.solve(system, print)  # type: ignore[arg-type]
        self.iterations[str(len(self.iterations))] = found.iterations
        return found.v


def running_integral(times: Tensor, values: Tensor) -> Tensor:
    """Trapezoidal integral from the first node to each, along axis 0."""
    pieces = times.diff()[:, None] * (values[1:] + values[:-1]) / 2
    return torch.cat([torch.zeros_like(values[:1]), pieces.cumsum(0)])


def basis_of_point(
    nodes: Tensor, histories: Tensor, plasma: Callable[[Tensor], Tensor], rank: int
) -> TimeBasis:
    """An earlier time basis: solutions at the point, their time integrals and time derivatives."""
    d = nodes.diff()
    weights = (torch.cat([d, d[:1] * 0]) + torch.cat([d[:1] * 0, d])) / 2
    weights, span = weights / weights.sum(), nodes[-1] - nodes[0]
    flat = histories.flatten(2)
    kept = flat[..., torch.linspace(0, flat.shape[-1] - 1, 400).long()].flatten(1)
    size = (kept.square() * weights[:, None]).sum(0).sqrt()
    kept = (kept / size)[:, size > 1e-6 * size.max()]
    slope = torch.gradient(kept, spacing=(nodes,), dim=0)[0] * (nodes - nodes[0])[:, None]
    slope = slope / (slope.square() * weights[:, None]).sum(0).sqrt().clamp_min(1e-300)
    candidates = torch.cat([kept, running_integral(nodes, kept) / span, slope], dim=1)
    candidates[0] = 0.0
    root = weights.sqrt()[:, None]
    B = torch.linalg.svd(root * candidates, full_matrices=False)[0][:, :rank] / root
    B[0] = 0.0
    project = B.T * weights
    return TimeBasis(B, project @ running_integral(nodes, B), project @ plasma(nodes), project)


class OldBasis(Formulation):
    """The Krylov methods of the package in an earlier basis, which is defined at the nodes only."""

    anchor: Fields

    def basis(self, kind: str, nodes: Tensor, breakpoints: Tensor, plasma: list) -> TimeBasis:
        p = self.problem
        pools = self.anchor.pools
        if kind == "contrast":
            plasma_mM = p.tensor(np.interp(p.frame_times, p.aif.times_s, p.aif.plasma_mM, left=0.0))
            pools = (
                (self.anchor.contrast - p.setting.maps.v_p * plasma_mM[:, None, None, None])
                / p.setting.maps.phi
            )[:, None]
        return basis_of_point(
            nodes, pools, lambda t: torch.cat([c(t.new_zeros(1), t) for c in plasma], dim=1), 8
        )


def fit_phantom(args: argparse.Namespace) -> tuple[InverseProblem, np.ndarray]:
    """The problem of one phantom after a fit by finite volumes, and the estimate."""
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder) / "study"
        make_phantom(
            at,
            PhantomSettings(
                seed=args.seed, shape=tuple(args.shape), length_scale_mm=args.length_scale
            ),
        )
        inputs = ImagingInputs(
            dce=at / "dce.nii.gz",
            cest=at / "ph.nii.gz",
            vfa=tuple(sorted(at.glob("vfa_*.nii.gz"))),
            mask=at / "mask.nii.gz",
        )
        drug = tuple(str(f) for f in sorted(at.glob("drug_*.nii.gz")))
        problem = pose_study(make_maps(inputs), inputs, FitSettings(drug=drug), "cpu").problem
    fitted = fit_fv(problem, iterations=args.iterations)
    return fitted.problem, fitted.theta


def input_maps(problem: InverseProblem, anchor: Fields) -> Tensor:
    """Input maps of the convolutions: tissue, and the flow at the linearisation point."""
    m, flow = problem.setting.maps, anchor.flow
    speed = flow.velocity(problem.setting.grid).norm(dim=0)
    return torch.stack(
        [
            m.tumour,
            m.vascularity(),
            m.phi,
            m.pH,
            flow.J_v / flow.J_v.abs().max(),
            speed / speed.max(),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--shape", type=int, nargs=3, default=[14, 14, 10])
    parser.add_argument("--length-scale", type=float, default=1.2)
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument(
        "--only",
        nargs="*",
        default=[
            "trained",
            "random",
            "both",
            "eliminated",
            "eliminated, old basis",
            "eliminated, rank 8",
        ],
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    problem, theta = fit_phantom(args)
    names = problem.unknowns.names
    forward = problem.forward()
    anchor, th = problem.solve(theta, forward), problem.tensor(theta)
    began = time.process_time()
    exact = problem.predict(theta, forward, tangents=True)
    print(f"finite volumes, tangents and fields: {time.process_time() - began:.1f} s of one core")
    reference = problem.quadratic(theta, exact)
    sd, size = np.sqrt(np.diag(reference.covariance)), exact.jacobian.norm(dim=0)
    shown = [j for j in range(len(names)) if float(size[j]) > 1e-3 * float(size.max())]
    moved = theta + sd * np.where(np.arange(len(theta)) % 2, 1, -1) * (
        1 - sd / problem.unknowns.prior_sd > 0.5
    )
    at_shifted_point = problem.solve(moved, problem.forward(anchor.flow.p))
    s = KrylovSettings()
    print(
        f"{'formulation':24s}{'s':>6s}  {'max residual':>15s}  {'step, sd':>9s} "
        f" {'p':>7s} {'C':>7s}  error of each tangent"
    )
    for how in args.only:
        kind = OldBasis if "old basis" in how else Formulation
        n = kind(
            problem,
            forward,
            8 if "rank 8" in how else s.rank,
            s.rates,
            0,
            KrylovSolver(max_iterations=400),
            print,
        )
        n.how, n.maps = how.split(",")[0], input_maps(problem, anchor)
        if isinstance(n, OldBasis):
            n.anchor = anchor
        began = time.process_time()
        fields = n.tangents(th, anchor)
        seconds = time.process_time() - began
        found = problem.compare(fields)
        step = np.abs(problem.quadratic(theta, found).full_step - reference.full_step) / sd
        change = problem.tensor(moved - theta)
        p = anchor.flow.p + torch.einsum("m,mxyz->xyz", change, fields.flow.dp)
        C = anchor.contrast + torch.einsum("m,mtxyz->txyz", change, fields.d_contrast)
        far = [
            float((a - b).norm() / b.norm())
            for a, b in ((p, at_shifted_point.flow.p), (C, at_shifted_point.contrast))
        ]
        errors = ((found.jacobian - exact.jacobian).norm(dim=0) / size)[shown].tolist()
        error_text = ", ".join(f"{names[j]} {e:.1%}" for j, e in zip(shown, errors, strict=True))
        print(
            f"{how:24s}{seconds:6.1f}  {max(n.residuals.values()):15.1e}  {step.max():9.3f} "
            f" {far[0]:7.2%} {far[1]:7.2%}  {error_text}",
            flush=True,
        )


if __name__ == "__main__":
    main()
