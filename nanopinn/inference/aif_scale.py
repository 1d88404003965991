"""An arterial input whose height is wrong: one factor s on the whole plasma curve, as an unknown.

Ktrans, ve and vp are fitted to the same curve, so a curve s times as high makes all three 1/s of
what they were, and no voxel's own curve can tell. Put into the equations of the contrast agent,
(C_p, PS, phi, v_p) -> (s C_p, PS/s, phi/s, v_p/s) is the same as J_v and u times s at the old maps:
**contrast agent alone sees s only in the product s q**. Drug images know a little of s, for their
plasma curve is not scaled: how much carriers in vessels show (v_p/s) and what the interstitium
holds (phi/s). Where they do not, s keeps its prior and q carries it: sd(ln q) grows by sd(ln s).

The kinetic maps of a problem are scaled and solved again, so nothing is linearised but the tangent
of s, a difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nanopinn.inference.gauss_newton import minimise
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.problem import EngineFit, Linearisation, Objective, Prediction
from nanopinn.inference.unknowns import Unknown, UnknownSet
from nanopinn.progress import Progress, ignore_progress
from nanopinn.results.fit_result import ScalarEstimate

Array = NDArray[np.float64]

AIF_SCALE = "aif_scale"
#: Of ln s, for its tangent.
STEP = 0.01


def scale_arterial_input(problem: InverseProblem, s: float) -> InverseProblem:
    """The problem of the same curves under an arterial input s times as high, and Ktrans, ve, vp
    that are 1/s of what they were.
    """
    maps = problem.setting.maps
    tissue = replace(maps, PS=maps.PS / s, phi=maps.phi / s, v_p=maps.v_p / s)
    return replace(
        problem,
        setting=replace(problem.setting, maps=tissue),
        kinetics=problem.kinetics / s,
        local_kinetics=problem.local_kinetics / s,
        aif=replace(problem.aif, plasma_mM=problem.aif.plasma_mM * s),
    )


@dataclass(frozen=True)
class AifScaleProblem:
    """A problem with the scale of its arterial input as the last unknown.

    Attributes:
        problem: at the scale ``exp(at)``.
        sd: of ln s before the data.
    """

    problem: InverseProblem
    sd: float
    at: float = 0.0

    @property
    def unknowns(self) -> UnknownSet:
        scale = Unknown(AIF_SCALE, "scale of the arterial input", "1", 1.0, "log", 1.0, self.sd)
        return UnknownSet((*self.problem.unknowns.items, scale))

    def solver(self, before: Any = None) -> Any:
        return None  # its maps change with every point

    def predict(self, theta: Array, forward: Any = None, *, tangents: bool = False) -> Prediction:
        """As that of the problem; the tangent of ln s is a forward difference."""
        here = self.problem_at_scale(theta)
        found = here.predict(theta[:-1], here.solver(), tangents=tangents)
        if found.jacobian is None:
            return found
        there = scale_arterial_input(here, float(np.exp(STEP)))
        moved = there.predict(theta[:-1], there.forward(found.fields.flow.p)).residual
        return replace(
            found,
            jacobian=torch.cat([found.jacobian, ((moved - found.residual) / STEP)[:, None]], dim=1),
        )

    def problem_at_scale(self, theta: Array) -> InverseProblem:
        """The problem at the scale of a point."""
        return scale_arterial_input(self.problem, float(np.exp(theta[-1] - self.at)))

    def scalars(self, theta: Array) -> Mapping[str, float]:
        return {**self.problem.scalars(theta[:-1]), AIF_SCALE: float(np.exp(theta[-1]))}


@dataclass(frozen=True)
class AifScaleFit:
    """A fit with the arterial input's scale: the fit at the best scale, and the posterior of all
    unknowns together.

    Attributes:
        fitted: at the best scale; its covariance is that of the other unknowns whatever the scale.
        scalars, covariance: with the scale last.
        log_scale: its estimate.
    """

    fitted: EngineFit
    scalars: tuple[ScalarEstimate, ...]
    covariance: Array
    log_scale: float


def fit_aif_scale(
    fitted: EngineFit,
    sd: float,
    *,
    iterations: int = 8,
    tolerance: float = 0.1,
    progress: Progress = ignore_progress,
) -> AifScaleFit:
    """Go on from a fit with the scale of the arterial input as one more unknown; maps and
    systematic errors stay as it left them.

    Args:
        sd: of ln s before the data.
    """
    posed = AifScaleProblem(fitted.problem, sd)
    objective, unknowns = Objective(posed), posed.unknowns
    last: dict[str, Prediction] = {}

    def expand(theta: Array) -> Any:
        last["here"] = posed.predict(theta, tangents=True)
        return objective.quadratic(theta, Linearisation.from_prediction(last["here"]))

    def tell(k: int, theta: Array, quadratic: Any) -> None:
        progress(
            "fv: scale of the arterial input",
            k / iterations,
            {"chi2/N": quadratic.chi2 / fitted.problem.observations},
        )

    start = np.append(fitted.theta, 0.0)
    descent = minimise(
        expand,
        objective.value,
        start,
        unknowns.prior_sd,
        iterations=iterations,
        tolerance=tolerance,
        on_step=tell,
    )
    theta, covariance = descent.theta, descent.quadratic.covariance
    prediction = last["here"]
    assert prediction.jacobian is not None
    others, short = (
        covariance[:-1, :-1],
        (
            ""
            if descent.converged
            else "; with the arterial input's scale it stopped short of its tolerance"
        ),
    )
    run = replace(
        fitted.run,
        scalars=fitted.problem.unknowns.estimates(theta[:-1], others),
        covariance=others,
        chi2=descent.quadratic.chi2,
        objective=(*fitted.run.objective, *descent.history),
        converged=fitted.run.converged and descent.converged,
        message=fitted.run.message + short,
    )
    plain = replace(prediction, jacobian=prediction.jacobian[:, :-1])
    return AifScaleFit(
        EngineFit(run, theta[:-1], posed.problem_at_scale(theta), plain),
        unknowns.estimates(theta, covariance),
        covariance,
        float(theta[-1]),
    )
