"""Error against time of our engines and of other methods, for the same problem on one machine.

    python benchmarks/inference.py reaction [--seconds 120] [--seeds 5]
        [--figure docs/figures/inference_reaction.png]
    python benchmarks/inference.py peer [--seconds 120] [--seeds 5]
        [--figure docs/figures/inference_peer.png]

DeepXDE is installed by: pip install -c constraints-cpu.txt -e '.[bench]'
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanopinn.inference.engine_driver import fit_fv
from nanopinn.inference.observations import TimeSeries
from nanopinn.inference.ode_problem import SystemProblem
from nanopinn.inference.pinn.pinn_engine import PinnSettings, fit_pinn
from nanopinn.inference.unknowns import Unknown, UnknownSet

REACTION = (
    Path(__file__).resolve().parents[2]
    / "shared"
    / "data"
    / "benchmarks"
    / "deepxde_reaction"
    / "reaction.npz"
)
TRUE_D, TRUE_KF = 2e-3, 0.1


#: Clock, s; with ``--clock cpu`` that of this process, for machines that run other work.
now: Callable[[], float] = time.perf_counter


@dataclass
class Course:
    """Error of one method over time, as pairs (seconds, error)."""

    name: str
    points: list[tuple[float, float]] = field(default_factory=list)

    def add(self, seconds: float, error: float) -> None:
        self.points.append((seconds, error))

    def at(self, seconds: float) -> float:
        """The error at a time; NaN before the first point."""
        return next((e for s, e in reversed(self.points) if s <= seconds), math.nan)

    def time_to_stay_below(self, error: float) -> float:
        """Seconds after which the error stays below ``error``; infinite if it never does."""
        above = [i for i, (_, e) in enumerate(self.points) if not e < error]
        first = above[-1] + 1 if above else 0
        return self.points[first][0] if first < len(self.points) else math.inf


# --- the public reaction problem


def reaction_problem(every: int) -> SystemProblem:
    """Two species on every ``every``-th of the file's 201 points. The concentrations are 1 at the
    left end and 0 at the right end.
    """
    with np.load(REACTION) as d:
        x, t = d["x"].ravel()[::every], d["t"].ravel()
        measured = np.stack([d["Ca"], d["Cb"]], -1)[:, ::every][:, 1:-1].reshape(len(t), -1)
    h, n = x[1] - x[0], len(x) - 2
    ends = torch.tensor([[[1.0, 1.0]], [[0.0, 0.0]]], dtype=torch.float64)

    def rate(_: Tensor, y: Tensor, s: Any) -> Tensor:
        u = y.reshape(n, 2)
        full = torch.cat([ends[0], u, ends[1]])
        diffusion = s["D"] * (full[2:] - 2 * u + full[:-2]) / h**2
        reaction = s["kf"] * u[:, 0] * u[:, 1] ** 2
        return (diffusion - torch.stack([reaction, 2 * reaction], dim=1)).reshape(-1)

    start = torch.as_tensor(np.repeat(np.exp(-20 * x[1:-1]), 2))
    unknowns = UnknownSet((Unknown.with_prior("D", 1e-3, 1.0), Unknown.with_prior("kf", 0.05, 1.0)))
    series = TimeSeries("species", t, measured, np.arange(2 * n), None)
    return SystemProblem(
        unknowns, rate, lambda s: start, (series,), positions=x[1:-1], tolerance=1e-5
    )


def largest_error(D: float, kf: float) -> float:
    return max(abs(D / TRUE_D - 1), abs(kf / TRUE_KF - 1))


def run_engine(
    name: str, every: int, fit: Callable[[Any, Callable[..., None]], Any]
) -> tuple[Course, Any]:
    """Run one of our engines; the time includes building the problem."""
    path, began = Course(name), now()

    def progress(_: str, __: float, numbers: Any) -> None:
        path.add(now() - began, largest_error(numbers["D"], numbers["kf"]))

    fitted = fit(reaction_problem(every), progress)
    path.add(now() - began, largest_error(fitted.run["D"].median, fitted.run["kf"].median))
    D, kf = fitted.run["D"], fitted.run["kf"]
    print(
        f"{name:8s} {path.points[-1][0]:7.2f} s  D {D.median / TRUE_D - 1:+.2%} (sd {D.sd:.2%})  kf"
        f" {kf.median / TRUE_KF - 1:+.2%} (sd {kf.sd:.2%})  both within 1 % after"
        f" {path.time_to_stay_below(0.01):.2f} s;  {fitted.run.message}",
        flush=True,
    )
    return path, fitted


def run_deepxde(seconds: float, points: int | None, seed: int) -> Course:
    """DeepXDE's documented example on the same file, with ``points`` random data points or with
    all of them, as documented, if None.
    """
    os.environ["DDE_BACKEND"] = "pytorch"
    import deepxde as dde

    dde.config.set_random_seed(seed)
    kf, D = dde.Variable(0.05), dde.Variable(1.0)

    def equations(x: Tensor, y: Tensor) -> list[Tensor]:
        Ca, Cb = y[:, 0:1], y[:, 1:2]
        loss = kf * Ca * Cb**2
        return [
            dde.grad.jacobian(y, x, i=i, j=1)
            - 1e-3 * D * dde.grad.hessian(y, x, component=i, i=0, j=0)
            + factor * loss
            for i, factor in ((0, 1.0), (1, 2.0))
        ]

    with np.load(REACTION) as d:
        X, T = np.meshgrid(d["x"].ravel(), d["t"].ravel())
        where, Ca, Cb = (
            np.stack([X.ravel(), T.ravel()], 1),
            d["Ca"].reshape(-1, 1),
            d["Cb"].reshape(-1, 1),
        )
    if points is not None:
        chosen = np.random.default_rng(seed).choice(len(where), points, replace=False)
        where, Ca, Cb = where[chosen], Ca[chosen], Cb[chosen]
    space_time = dde.geometry.GeometryXTime(
        dde.geometry.Interval(0, 1), dde.geometry.TimeDomain(0, 10)
    )
    conditions = []
    for component, values in ((0, Ca), (1, Cb)):
        conditions += [
            dde.icbc.DirichletBC(
                space_time, lambda x: 1 - x[:, 0:1], lambda _, on: on, component=component
            ),
            dde.icbc.IC(
                space_time, lambda x: np.exp(-20 * x[:, 0:1]), lambda _, on: on, component=component
            ),
            dde.icbc.PointSetBC(where, values, component=component),
        ]
    data = dde.data.TimePDE(
        space_time,
        equations,
        conditions,
        num_domain=2000,
        num_boundary=100,
        num_initial=100,
        anchors=where,
    )
    model = dde.Model(data, dde.nn.FNN([2, 20, 20, 20, 2], "tanh", "Glorot uniform"))
    path = Course("DeepXDE" if points is None else f"DeepXDE, {points} points")
    began = now()

    class Clock(dde.callbacks.Callback):  # type: ignore[misc]
        steps = 0

        def on_epoch_end(self) -> None:
            self.steps += 1
            path.add(now() - began, largest_error(1e-3 * float(D.detach()), float(kf.detach())))
            if path.points[-1][0] > seconds:
                self.model.stop_training = True

    clock = Clock()
    model.compile("adam", lr=1e-3, external_trainable_variables=[kf, D], verbose=0)
    model.train(iterations=80_000, callbacks=[clock], display_every=10**9, verbose=0)
    found = 1e-3 * float(D.detach()) / TRUE_D - 1, float(kf.detach()) / TRUE_KF - 1
    print(
        f"{path.name:8s} {path.points[-1][0]:7.2f} s  D {found[0]:+.1%}  kf {found[1]:+.1%}  "
        f"{clock.steps} Adam iterations of 80,000 documented",
        flush=True,
    )
    return path


def reaction(given: argparse.Namespace) -> None:
    """D and kf of the public file by ``fv``, by ``pinn``, and by DeepXDE for a fixed time."""
    paths = [run_engine("fv", 1, lambda p, progress: fit_fv(p, progress=progress))[0]]
    settings = PinnSettings(iterations=50)
    pinns = [
        run_engine(
            "pinn",
            given.every,
            lambda p, progress, s=seed: fit_pinn(p, settings=settings, seed=s, progress=progress),
        )
        for seed in range(given.seeds)
    ]
    paths += [path for path, _ in pinns]
    errors = np.array(
        [[f.run["D"].median / TRUE_D - 1, f.run["kf"].median / TRUE_KF - 1] for _, f in pinns]
    )
    reached = sorted(path.time_to_stay_below(0.01) for path, _ in pinns)
    print(
        f"pinn over {given.seeds} seeds: D"
        f" {np.median(errors[:, 0]):+.2%} ({errors[:, 0].min():+.2%} .. {errors[:, 0].max():+.2%}),"
        f" kf {np.median(errors[:, 1]):+.2%} ({errors[:, 1].min():+.2%} .."
        f" {errors[:, 1].max():+.2%}); within 1 % after {reached[len(reached) // 2]:.1f} s"
        f" ({reached[0]:.1f} .. {reached[-1]:.1f})"
    )
    if find_spec("deepxde") is None:
        print(
            "DeepXDE is not installed and is left out. Install it by: pip install -c"
            " constraints-cpu.txt -e '.[bench]'"
        )
    else:
        for points in (None, 2000):
            peer = run_deepxde(given.seconds, points, seed=0)
            paths.append(peer)
            best = float(np.median([e for _, e in peer.points[-100:]]))
            for mine in (paths[0], pinns[0][0]):
                reached_at = mine.time_to_stay_below(best)
                sooner = peer.points[-1][0] / reached_at
                print(
                    f"  {mine.name} stays below the final error of DeepXDE ({best:.1%}) after"
                    f" {reached_at:.2f} s: {sooner:.0f} times faster"
                )
    if given.figure is not None:
        draw(paths, "largest relative error of D and kf", given.figure)


# --- the published method for interstitial pressure from one liposome image


@dataclass(frozen=True)
class LiposomeImage:
    """A phantom's liposome image and the true means of the constants of the published method.

    Attributes:
        where: Positions ``(n, 3)``, m.
        tissue: Concentration without that in blood ``(n,)``, kg/m3.
        tumour: Whether a voxel belongs to the tumour, ``(n,)``.
        pressure: True pressure ``(n,)``, Pa.
        K: Hydraulic conductivity, m2/(Pa s).
        LpSV: Filtration coefficient of the vessel walls, 1/(Pa s).
        p_e: Driving pressure, Pa.
        sigma: Reflection coefficient.
        retardation: Velocity of the carrier over that of the fluid.
        decay: Decay rate of the carrier including release, 1/s.
        porosity: Interstitial volume fraction.
        plasma: Concentration in plasma, kg/m3, at a time, s.
        seconds: Time after the dose, s.
    """

    where: Tensor
    tissue: Tensor
    tumour: Tensor
    pressure: Tensor
    K: float
    LpSV: float
    p_e: float
    sigma: float
    retardation: float
    decay: float
    porosity: float
    plasma: Callable[[Tensor], Tensor]
    seconds: float


def liposome_image(folder: Path) -> LiposomeImage:
    """Read the folder of a phantom with one liposome image."""
    import nibabel as nib

    from nanopinn.parameters import value
    from nanopinn.physics.formulation_library import PH_SENSITIVE
    from nanopinn.solvers.drug_course import bolus_course

    def read(name: str) -> Any:
        return nib.load(folder / f"{name}.nii.gz").get_fdata()

    scalars = json.loads((folder / "truth" / "parameters.json").read_text())["scalars_SI"]
    (image,) = folder.glob("drug_encapsulated_*h.nii.gz")
    hours = float(image.name.split("_")[2].removesuffix("h.nii.gz"))
    mask, course = read("mask") > 0.5, bolus_course(PH_SENSITIVE, value("Dose"))
    plasma = course.bolus_curves()[0]
    blood = read("truth/vp") * float(plasma(torch.tensor(hours * 3600.0, dtype=torch.float64)))
    affine = nib.load(image).affine
    index = np.stack(np.meshgrid(*(np.arange(n) for n in mask.shape), indexing="ij"), -1).reshape(
        -1, 3
    )
    LpSV = scalars["q"] / scalars["p_e"]
    released = float(read("truth/krel")[mask].mean()) / 3600
    return LiposomeImage(
        where=torch.as_tensor((index @ affine[:3, :3].T + affine[:3, 3]) * 1e-3),
        tissue=torch.as_tensor(
            (read(image.name.removesuffix(".nii.gz")) * 1e-3 - blood).reshape(-1)
        ),
        tumour=torch.as_tensor(mask.reshape(-1)),
        pressure=torch.as_tensor(read("truth/IFP").reshape(-1) * 133.322),
        K=LpSV * scalars["l"] ** 2,
        LpSV=LpSV,
        p_e=scalars["p_e"],
        sigma=1 - scalars["leak_l"],
        retardation=scalars["f_l"],
        decay=value("k_d_lip") + released,
        porosity=float(read("truth/ve")[mask].mean()),
        plasma=plasma,
        seconds=hours * 3600.0,
    )


def gauss_legendre(stages: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gauss-Legendre method of order ``2 stages``: matrix, weights, nodes between 0 and 1."""
    nodes, weights = np.polynomial.legendre.leggauss(stages)
    c = (nodes + 1) / 2
    powers = np.arange(stages)
    matrix = (c[:, None] ** (powers + 1) / (powers + 1)) @ np.linalg.inv(c[:, None] ** powers)
    return torch.as_tensor(matrix), torch.as_tensor(weights / 2), torch.as_tensor(c)


class PublishedMethod(torch.nn.Module):
    """The method of Meaney, Stapleton and Kohandel (2023) as published: a network for the pressure
    and the liposome concentration at Runge-Kutta stages, with the equations in strong form.

    It has 4 hidden layers of 50 tanh units. The loss is the sum of the transport residual, the
    data misfit and ``p = 0`` outside the tumour. The number of stages, the weights of the three
    terms and the units are not published; here they are 10 stages, equal weights and quantities
    scaled to the order of one.
    """

    def __init__(self, image: LiposomeImage, stages: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        widths = [3, 50, 50, 50, 50, stages + 2]
        self.layers = torch.nn.ModuleList(
            torch.nn.Linear(i, o, dtype=torch.float64) for i, o in pairwise(widths)
        )
        for layer in self.layers:
            torch.nn.init.xavier_normal_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        self.image, (A, b, c) = image, gauss_legendre(stages)
        self.through = torch.cat([A, b[None]])
        self.scale = float(image.tissue[image.tumour].abs().max())
        self.length = float(
            (image.where[image.tumour] - image.where[image.tumour].mean(0)).norm(dim=1).max()
        )
        self.plasma = image.plasma(image.seconds * c)

    def fields(self, where: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs ``(n, o)``, their gradients ``(3, n, o)`` and Laplacians ``(n, o)`` by the scaled
        positions, computed analytically.
        """
        a = (where - self.image.where[self.image.tumour].mean(0)) / self.length
        da = torch.eye(3, dtype=a.dtype)[:, None].expand(3, len(a), 3)
        laplacian_a = torch.zeros_like(a)
        for k, layer in enumerate(self.layers):
            a, da, laplacian_a = layer(a), da @ layer.weight.T, laplacian_a @ layer.weight.T
            if k < len(self.layers) - 1:
                a = torch.tanh(a)
                slope = 1 - a**2
                laplacian_a = slope * laplacian_a - 2 * a * slope * (da**2).sum(0)
                da = slope * da
        return a, da, laplacian_a

    def values(self, where: Tensor) -> Tensor:
        """Outputs ``(n, o)`` without derivatives, for points where no equation is imposed."""
        a = (where - self.image.where[self.image.tumour].mean(0)) / self.length
        for layer in self.layers[:-1]:
            a = torch.tanh(layer(a))
        return self.layers[-1](a)  # type: ignore[no-any-return]

    def loss(self) -> Tensor:
        im = self.image
        inside, outside = im.where[im.tumour], im.where[~im.tumour]
        out, gradient, laplacian = self.fields(inside)
        p, M = out[:, :1], out[:, 1:]
        speed = im.retardation * im.K * im.p_e / (im.porosity * self.length**2)
        carried = speed * (
            (gradient[:, :, :1] * gradient[:, :, 1:-1]).sum(0) + M[:, :-1] * laplacian[:, :1]
        )
        entered = im.LpSV * im.p_e * (1 - p) * (1 - im.sigma) * self.plasma / self.scale
        rate = carried + entered - im.decay * M[:, :-1]
        residual = M - im.seconds * rate @ self.through.T
        data = M[:, -1] - im.tissue[im.tumour] / self.scale
        return (
            residual.square().mean()
            + data.square().mean()
            + self.values(outside)[:, 0].square().mean()
        )

    def pressure_error(self) -> float:
        """Relative L2 in the tumour."""
        with torch.no_grad():
            p = self.image.p_e * self.values(self.image.where[self.image.tumour])[:, 0]
        true = self.image.pressure[self.image.tumour]
        return float((p - true).norm() / true.norm())


def run_published_method(image: LiposomeImage, seconds: float, seed: int) -> Course:
    """Train the published method for a fixed time: Adam for 6/7 of it, then L-BFGS, in the
    published ratio of 300,000 to 50,000 iterations.
    """
    net, path, began, steps = (
        PublishedMethod(image, 10, seed),
        Course("Meaney et al. 2023, re-implemented"),
        now(),
        0,
    )
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    while now() - began < seconds * 6 / 7:
        adam.zero_grad()
        net.loss().backward()
        adam.step()
        steps += 1
        if steps % 20 == 0:
            path.add(now() - began, net.pressure_error())
    lbfgs = torch.optim.LBFGS(
        net.parameters(),
        max_iter=20,
        history_size=50,
        line_search_fn="strong_wolfe",
        tolerance_change=0.0,
    )

    def closure() -> Tensor:
        lbfgs.zero_grad()
        loss = net.loss()
        loss.backward()
        return loss

    polished = 0
    while now() - began < seconds:
        lbfgs.step(closure)
        polished += 20
        path.add(now() - began, net.pressure_error())
    loss = float(net.loss().detach())
    marks = ", ".join(
        f"{path.at(share * seconds):.1%} at {share * seconds:.0f} s"
        for share in (0.1, 0.2, 0.4, 0.6, 0.8)
    )
    print(
        f"{path.name}, seed {seed}: {steps} Adam and {polished} L-BFGS iterations (published:"
        f" 300,000 and 50,000), loss {loss:.1e}, pressure error {marks},"
        f" {path.points[-1][1]:.1%} at the end; smallest error"
        f" {min(e for _, e in path.points):.1%}",
        flush=True,
    )
    return path


def run_our_fit(folder: Path, image: LiposomeImage) -> Course:
    """``nanopinn fit --engine fv`` on the scan and the same image; the time is from reading the
    files to the last map.
    """
    import nanopinn

    began = now()
    inputs = nanopinn.ImagingInputs(
        dce=str(folder / "dce.nii.gz"),
        cest=str(folder / "ph.nii.gz"),
        mask=str(folder / "mask.nii.gz"),
        vfa=tuple(str(p) for p in sorted(folder.glob("vfa_*.nii.gz"))),
    )
    (drug,) = folder.glob("drug_encapsulated_*h.nii.gz")
    study = nanopinn.run_fit(inputs, nanopinn.FitSettings(engine="fv", drug=(str(drug),)))
    seconds = now() - began
    # pressure is proportional to p_e, which no image determines and the published method is given
    pressure = study.fit.maps["IFP"]
    assert {pressure.unit, study.fit["p_e"].unit} == {"mmHg"}
    p = torch.as_tensor(pressure.values.reshape(-1)) / study.fit["p_e"].median * image.p_e
    true = image.pressure[image.tumour]
    path = Course("nanopinn, fv")
    path.add(seconds, float((p[image.tumour] - true).norm() / true.norm()))
    return path


def peer(given: argparse.Namespace) -> None:
    """Interstitial pressure from one liposome image by the published method and by ours."""
    import nanopinn

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "phantom"
        settings = nanopinn.PhantomSettings(
            shape=tuple(given.shape),
            frames=30,
            length_scale_mm=1.26,
            drug_times_h=(24.0,),
            seed=given.seed,
        )
        nanopinn.make_phantom(folder, settings)
        print(f"phantom of {given.shape} voxels, solved on a threefold finer grid", flush=True)
        image = liposome_image(folder)
        mine = run_our_fit(folder, image)
        print(
            f"{mine.name}: {mine.points[-1][0]:.1f} s, pressure error {mine.points[-1][1]:.1%}",
            flush=True,
        )
        others = [run_published_method(image, given.seconds, seed) for seed in range(given.seeds)]
    error = mine.points[-1][1]
    for seed, other in enumerate(others):
        soonest = next((s for s, e in other.points if e <= error), math.inf)
        found = (
            f"reaches this error after {soonest:.1f} s"
            if math.isfinite(soonest)
            else "does not reach this error"
        )
        print(f"published method, seed {seed}: {found}")
    ends = sorted(other.points[-1][1] for other in others)
    print(
        f"its final error over {len(ends)} seeds: median"
        f" {ends[len(ends) // 2]:.1%} ({ends[0]:.1%} .. {ends[-1]:.1%})"
    )
    if given.figure is not None:
        draw([mine, *others], "relative L2 error of pressure in the tumour", given.figure)


def draw(paths: list[Course], label: str, target: Path) -> None:
    """Error against time of every method."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(path.name for path in paths))}
    for path in paths:
        seconds, errors = np.array(path.points).T
        marker = "o" if len(seconds) < 20 else ""
        ax.loglog(
            seconds,
            errors,
            marker=marker,
            markersize=3,
            lw=1,
            color=colours[path.name],
            label=path.name,
        )
    ax.set(xlabel="seconds", ylabel=label)
    handles, labels = ax.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    ax.legend(unique.values(), unique.keys(), fontsize=8)
    target.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(target, dpi=110)


STUDIES: dict[str, Callable[[argparse.Namespace], None]] = {"reaction": reaction, "peer": peer}


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("study", choices=STUDIES)
    arguments.add_argument("--seconds", type=float, default=120.0, help="time given to a peer, s")
    arguments.add_argument("--seeds", type=int, default=5, help="number of seeds of the networks")
    arguments.add_argument("--seed", type=int, default=1, help="seed of the phantom")
    arguments.add_argument(
        "--shape", type=int, nargs=3, default=(16, 16, 12), help="voxels of the phantom, 0.5 mm"
    )
    arguments.add_argument(
        "--every", type=int, default=4, help="pinn uses every N-th point of the reaction file"
    )
    arguments.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: processor time of this process, for a shared machine",
    )
    arguments.add_argument("--figure", type=Path)
    given = arguments.parse_args()
    if given.clock == "cpu":
        globals()["now"] = time.process_time
    machine = (
        f"{platform.machine()}, {torch.get_num_threads()} threads, Python"
        f" {platform.python_version()}, torch {torch.__version__}"
    )
    print(f"{machine}, {given.clock} seconds")
    print(f"load of the machine at the start: {os.getloadavg()[0]:.1f}", flush=True)
    STUDIES[given.study](given)


if __name__ == "__main__":
    main()
