"""The inverse PINN: networks for the sensitivities of every field, parameters moved through them.

Training a state network and the parameters in one loss ends in the stiff valley between the two. Here the
fields are a local solution operator ``u(x, t; theta)`` around the current theta: anchored there to one
finite-volume solution without tangents, and carried away from it by networks for the linearised
finite-volume residual of every cell. The parameters take a Gauss-Newton step through the networks, and the
anchor follows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from nanopinn.inference.contract import Fitted, Prediction
from nanopinn.inference.gauss_newton import Place, Quadratic, minimise
from nanopinn.inference.pinn.fields import FieldNetworks
from nanopinn.inference.pinn.network import Layers
from nanopinn.inference.problem import Fields, InverseProblem
from nanopinn.inference.result import EngineRun
from nanopinn.inference.resume import Keeper, Stand
from nanopinn.progress import Progress, silent
from nanopinn.solvers.linear import SolverError

Array = NDArray[np.float64]

STAGE = "pinn: networks and Gauss-Newton"


@dataclass(frozen=True)
class PinnSettings:
    """Size and effort of the networks.

    Attributes:
        rank: functions of time per pool system. rates: random rates that they are made of, per plasma curve.
        layers: of every network.
        ensemble: networks from other seeds that tell the error of these, two functions of time smaller.
        anchors: at most so many. tolerance: posterior standard deviations of the last step.
    """

    rank: int = 12
    rates: int = 24
    layers: Layers = field(default_factory=lambda: Layers(most=400))
    ensemble: int = 3
    anchors: int = 10
    tolerance: float = 0.1


def fit_pinn(
    problem: InverseProblem,
    start: Array | None = None,
    *,
    settings: PinnSettings | None = None,
    seed: int = 0,
    keeper: Keeper | None = None,
    progress: Progress = silent,
) -> Fitted[InverseProblem]:
    """Fit the unknowns with the inverse PINN; Laplace posterior from the networks' sensitivities, and their own error added.

    Args:
        start: coordinates to start from; the prior means if None, never the answer of another engine.
        seed: of the networks' hidden features.
        keeper: of the descent's state, from which an interrupted one goes on.
    """
    began = time.perf_counter()
    settings = settings or PinnSettings()
    engine = _Engine(problem, settings, seed, progress)
    theta = problem.unknowns.prior_mean if start is None else np.asarray(start, dtype=np.float64)
    begin = engine.taken_up(keeper.stand("pinn")) if keeper else None
    descent = minimise(
        engine.expand,
        engine.value_at,
        theta,
        problem.unknowns.prior_sd,
        iterations=settings.anchors,
        tolerance=settings.tolerance,
        on_step=engine.tell,
        begin=begin,
        keep=(lambda place: keeper.keep(engine.stand(place))) if keeper else None,
    )
    assert engine.last is not None
    own = engine.own_covariance(descent.quadratic)
    covariance = descent.quadratic.covariance + own
    share = np.sqrt(np.diag(own) / np.diag(covariance))
    names = problem.unknowns.names
    message = (
        f"{descent.iterations} anchors; relative residuals at the last: {engine.residual_text()}; "
        f"the networks' own error is at most {share.max():.2f} posterior sd ({names[int(share.argmax())]}), and in the posterior"
    )
    networks = engine.networks
    run = EngineRun(
        engine="pinn",
        scalars=problem.unknowns.estimates(descent.theta, covariance),
        covariance=covariance,
        objective=descent.history,
        chi2=descent.quadratic.chi2,
        observations=problem.observations,
        seconds=time.perf_counter() - began,
        converged=descent.converged,
        message=message,
        stats={
            "anchors": descent.iterations,
            "weights": networks.weights,
            "seed": seed,
            "ensemble": settings.ensemble,
            **{f"residual of {k}": r for k, r in networks.residuals.items()},
            **{f"layers of {k}": n for k, n in networks.depth.items()},
            **{
                f"own error of {n}, posterior sd": float(s)
                for n, s in zip(names, share, strict=True)
            },
        },
        events=tuple(dict.fromkeys(engine.events)),
    )
    return Fitted(run, descent.theta, engine.problem, engine.last)


class _Engine:
    def __init__(
        self, problem: InverseProblem, settings: PinnSettings, seed: int, progress: Progress
    ) -> None:
        self.problem, self.settings, self.seed, self.progress = problem, settings, seed, progress
        self.forward = problem.forward()
        self.last: Prediction[Fields] | None = None
        self.tried: tuple[Array, Fields] | None = None
        self.events: list[str] = []
        self.step = 0
        self.anchor = problem.unknowns.prior_mean
        self.networks = self.networks_of(seed, settings.rank)
        self.shown: dict[str, float] = {}

    def taken_up(self, stand: Stand | None) -> Place | None:
        """Go on from where an earlier descent stood."""
        if stand is None:
            return None
        self.problem, self.events = stand.problem, stand.taken_up()
        self.forward = self.problem.forward(stand.pressure)
        self.tried = None if stand.fields is None else (stand.place.theta, stand.fields)
        self.step = stand.place.iteration
        return stand.place

    def stand(self, place: Place) -> Stand:
        """Where the descent stands, with all that its next iteration depends on."""
        fields = (
            self.tried[1] if self.tried and np.array_equal(self.tried[0], place.theta) else None
        )
        return Stand(
            "pinn", place, self.problem, self.forward.last_pressure, fields, tuple(self.events)
        )

    def networks_of(self, seed: int, rank: int) -> FieldNetworks:
        s = self.settings
        return FieldNetworks(self.problem, self.forward, rank, s.rates, seed, s.layers, self.record)

    def record(self, words: str) -> None:
        self.events.append(f"anchor {self.step + 1}, {words}")

    def expand(self, theta: Array) -> Quadratic:
        """Anchor at theta, grow the networks there, and form the normal equations through them."""
        before, here = self.problem, self.fields_at(theta)
        self.problem = before.linearised_at(theta, here)
        if self.problem is not before:
            self.forward = self.problem.forward(here.flow.p)
            here = self.problem.solve(theta, self.forward)
            self.problem = self.problem.with_errors(theta, here)
            self.tried = theta.copy(), here
        self.networks = replace(self.networks_of(self.seed, self.settings.rank), grown=self.grown)
        self.last = self.problem.compare(self.networks.tangents(self.problem.tensor(theta), here))
        return self.problem.quadratic(theta, self.last)

    def fields_at(self, theta: Array) -> Fields:
        """Fields without tangents; those of the step just taken are at hand."""
        if self.tried is None or not np.array_equal(self.tried[0], theta):
            self.tried = theta.copy(), self.problem.solve(theta, self.forward)
        return self.tried[1]

    def value_at(self, theta: Array) -> float:
        """The objective; infinite where the fields cannot be solved, so that a smaller step follows."""
        try:
            value = self.problem.objective(theta, self.problem.compare(self.fields_at(theta)))
        except SolverError as error:
            self.record(f"a step was refused: {error}")
            return float("inf")
        if not np.isfinite(value):
            self.record("a step was refused: its fields are not finite")
        return value if np.isfinite(value) else float("inf")

    def own_covariance(self, quadratic: Quadratic) -> Array:
        """What the networks' imperfection adds to the covariance of the scalars, ``(m, m)``.

        Networks of other hidden features, smaller by two functions of time, would step from the same anchor to other
        places; the mean square of what lies between these and the engine's own stands for its error, and errs to
        the large side because they are smaller.
        """
        m = len(self.problem.unknowns)
        assert self.last is not None
        fields, theta = self.last.fields, self.anchor
        bare = replace(fields, flow=fields.flow_without_tangents, d_contrast=None, d_pools=None)
        total, own = np.zeros((m, m)), quadratic.step(0.0, np.full(m, np.inf))
        for k in range(self.settings.ensemble):
            self.progress("pinn: its own error", k / self.settings.ensemble, {})
            member = self.networks_of(self.seed + 1 + k, self.settings.rank - 2)
            other = self.problem.compare(member.tangents(self.problem.tensor(theta), bare))
            apart = self.problem.quadratic(theta, other).step(0.0, np.full(m, np.inf)) - own
            total += np.outer(apart, apart)
        return total / max(self.settings.ensemble, 1)

    def tell(self, k: int, theta: Array, quadratic: Quadratic) -> None:
        self.anchor, self.step = theta.copy(), k + 1
        self.shown = {**quadratic.terms(self.problem.observations), **self.problem.scalars(theta)}
        self.shown |= {f"residual {name}": r for name, r in self.networks.residuals.items()}
        self.progress(STAGE, (k + 1) / self.settings.anchors, self.shown)

    def grown(self, name: str, residual: float) -> None:
        """Show a network that is done; the misfit and the parameters beside it are those of the anchor before."""
        self.shown |= {f"residual {name}": residual}
        done = self.step + len(self.networks.residuals) / 5
        self.progress(STAGE, done / self.settings.anchors, self.shown)

    def residual_text(self) -> str:
        return ", ".join(f"{name} {r:.0e}" for name, r in self.networks.residuals.items())
