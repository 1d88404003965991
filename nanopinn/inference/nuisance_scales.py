"""Scales that are estimated beside a fit: the scale of the arterial input function and the noise of
each kind of observation.

**Arterial input function.** One factor s on the whole plasma curve is an unknown. Ktrans, ve and vp
are fitted with the same curve, so a curve that is s times as high makes all three 1/s times as
large, and the curve of a single voxel contains no information about s. In the equations of the
contrast agent, (C_p, PS, phi, v_p) -> (s C_p, PS/s, phi/s, v_p/s) is equivalent to J_v and u times
s with the original maps, so contrast agent alone determines only the product s q. Drug images
contain some information about s, because their plasma curve is not scaled: through the encapsulated
drug in vessels (v_p/s) and through the interstitial volume (phi/s). Otherwise s keeps its prior and
the variance of ln q grows by that of ln s.

The kinetic maps of a problem are scaled and the fields solved again, so that only the tangent of s
is approximated, by a finite difference.

**Noise.** With whitened residuals r, systematic errors of effect E, and voxels whose stated noise n
and other variance v add up to ``sd^2 = n^2 + v``, the residual is Gaussian with covariance ``C =
diag((s^2 n^2 + v)/sd^2) + E E'``. The scales s, one for each kind, maximise the likelihood with a
log-normal prior; systematic errors are eliminated and do not count as noise. The standard
deviations follow from the curvature at the maximum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from nanopinn.inference.gauss_newton import LARGEST_STEP_PRIOR_SD, minimise, step_below
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.problem import EngineFit, Linearisation, Objective, Prediction
from nanopinn.inference.systematic import SharedError
from nanopinn.inference.tumour_problem import Fields
from nanopinn.inference.unknowns import Unknown, UnknownSet
from nanopinn.progress import Progress, ignore_progress
from nanopinn.results import ScalarEstimate, central_interval

Array = NDArray[np.float64]

#: Name of the unknown.
AIF_SCALE = "aif_scale"
#: Step of ln s for the finite difference of its tangent.
LOG_SCALE_STEP = 0.01


def scale_arterial_input(problem: InverseProblem, s: float) -> InverseProblem:
    """Scale the arterial input function of a problem for the same measured curves.

    Args:
        problem: problem with its kinetic maps.
        s: factor of the plasma curve; Ktrans, ve and vp are divided by it.

    Returns:
        The scaled problem.
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
    """A problem with the scale of its arterial input function as the last unknown.

    Attributes:
        problem: problem at the scale ``exp(log_scale)``.
        sd: prior standard deviation of ln s.
        log_scale: ln s at which ``problem`` is given.
    """

    problem: InverseProblem
    sd: float
    log_scale: float = 0.0

    @property
    def unknowns(self) -> UnknownSet:
        """Unknowns of the problem, and the scale."""
        scale = Unknown(AIF_SCALE, "scale of the arterial input", "1", 1.0, "log", 1.0, self.sd)
        return UnknownSet((*self.problem.unknowns.items, scale))

    def solver(self, before: Any = None) -> Any:
        """None, because the maps differ at every point, and so does the solver.

        Args:
            before: not used.
        """
        return None

    def predict(self, theta: Array, forward: Any = None, *, tangents: bool = False) -> Prediction:
        """Prediction at a point; the tangent of ln s is a forward difference.

        Args:
            theta: coordinates of the unknowns, ln s last, ``(m + 1,)``.
            forward: not used, see :meth:`solver`.
            tangents: whether to compute the Jacobian.
        """
        problem = self.problem_at_scale(theta)
        prediction = problem.predict(theta[:-1], problem.solver(), tangents=tangents)
        if prediction.jacobian is None:
            return prediction
        shifted = scale_arterial_input(problem, float(np.exp(LOG_SCALE_STEP)))
        forward = shifted.forward(prediction.fields.flow.p)
        difference = shifted.predict(theta[:-1], forward).residual - prediction.residual
        jacobian = torch.cat([prediction.jacobian, (difference / LOG_SCALE_STEP)[:, None]], dim=1)
        return replace(prediction, jacobian=jacobian)

    def problem_at_scale(self, theta: Array) -> InverseProblem:
        """The problem at the scale of a point.

        Args:
            theta: coordinates of the unknowns, ln s last, ``(m + 1,)``.
        """
        return scale_arterial_input(self.problem, float(np.exp(theta[-1] - self.log_scale)))

    def scalars(self, theta: Array) -> Mapping[str, float]:
        """Model scalars in SI units, and the scale.

        Args:
            theta: coordinates of the unknowns, ln s last, ``(m + 1,)``.
        """
        return {**self.problem.scalars(theta[:-1]), AIF_SCALE: float(np.exp(theta[-1]))}


@dataclass(frozen=True)
class AifScaleFit:
    """A fit with the scale of the arterial input function as an unknown.

    Attributes:
        fitted: fit of the other unknowns at the estimated scale, with the scale marginalised from
            their covariance.
        scalars: estimates of all unknowns, the scale last.
        covariance: posterior covariance of all unknowns, ``(m + 1, m + 1)``.
        log_scale: estimate of ln s.
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
    """Continue a fit with the scale of the arterial input function as one more unknown; maps and
    systematic errors stay as they are at the end of the fit.

    Args:
        fitted: fit without the scale.
        sd: prior standard deviation of ln s.
        iterations: maximum number of iterations.
        tolerance: size of the last step at which the optimisation ends, posterior standard
            deviations.
        progress: receives the state of the optimisation.

    Returns:
        The fit at the estimated scale, and the posterior of all unknowns.
    """
    problem = AifScaleProblem(fitted.problem, sd)
    objective, unknowns = Objective(problem), problem.unknowns
    last: dict[str, Prediction] = {}

    def expand(theta: Array) -> Any:
        last["here"] = problem.predict(theta, tangents=True)
        return objective.quadratic(theta, Linearisation.from_prediction(last["here"]))

    def report_step(k: int, theta: Array, quadratic: Any) -> None:
        progress(
            "fv: scale of the arterial input",
            k / iterations,
            {"chi2/N": quadratic.chi2 / fitted.problem.observations},
        )

    start = np.append(fitted.theta, 0.0)
    optimisation = minimise(
        expand,
        objective.value,
        start,
        LARGEST_STEP_PRIOR_SD * unknowns.prior_sd,
        iterations=iterations,
        converged=step_below(tolerance),
        on_step=report_step,
    )
    theta, covariance = optimisation.theta, optimisation.quadratic.covariance
    prediction = last["here"]
    assert prediction.jacobian is not None
    others, message = covariance[:-1, :-1], fitted.run.message
    if not optimisation.converged:
        message += "; the fit with the scale of the arterial input did not reach its tolerance"
    run = replace(
        fitted.run,
        scalars=fitted.problem.unknowns.estimates(theta[:-1], others),
        covariance=others,
        chi2=optimisation.quadratic.chi2,
        objective=(*fitted.run.objective, *optimisation.history),
        converged=fitted.run.converged and optimisation.converged,
        message=message,
    )
    prediction = replace(prediction, jacobian=prediction.jacobian[:, :-1])
    return AifScaleFit(
        EngineFit(run, theta[:-1], problem.problem_at_scale(theta), prediction),
        unknowns.estimates(theta, covariance),
        covariance,
        float(theta[-1]),
    )


#: Prior standard deviation of ln s: the stated noise is correct within a factor of seven (95 %).
NOISE_SCALE_PRIOR_SD = 1.0


@dataclass(frozen=True)
class NoiseScale:
    """Ratio of the estimated to the stated noise of one kind of observation.

    Attributes:
        kind: kind of observation, for messages.
        scale: estimated ratio.
        sd: posterior standard deviation of its logarithm.
    """

    kind: str
    scale: float
    sd: float


def describe_noise_scale(noise: NoiseScale) -> str:
    """The estimate of a noise scale as a sentence.

    Args:
        noise: estimated noise scale.
    """
    low, high = central_interval(noise.scale, noise.sd, "log")
    return (
        f"The noise of {noise.kind} was estimated as {noise.scale:.2f} times the stated noise (95 %"
        f" interval {low:.2f} to {high:.2f})."
    )


def estimate_noise_scales(problem: InverseProblem, fields: Fields) -> tuple[NoiseScale, ...]:
    """Estimate the noise scale of every kind of observation.

    Args:
        problem: problem as it is at the end of the fit.
        fields: fields at the estimate.

    Returns:
        One scale for contrast agent and one for each quantity of drug image.
    """
    contrast = problem.contrast
    r = contrast.residual(fields.contrast).reshape(-1)
    projected = len(r) - contrast.count  # directions that were projected out contain no noise
    one, none = torch.ones_like(r), torch.zeros_like(r)
    groups = torch.zeros(len(r), dtype=torch.long, device=r.device)
    found = _fit_noise_scales(
        ("contrast agent",),
        groups,
        one,
        none,
        *_split_systematic_errors(problem, "contrast", r),
        projected,
    )
    if fields.pools is None:
        return found
    kinds = tuple(sorted({d.quantity for d in problem.drug}))
    share = torch.cat([(d.noise_sd / d.sd).square()[d.voxels] for d in problem.drug])
    group_of_voxel = [
        torch.full((d.count,), kinds.index(d.quantity), device=r.device) for d in problem.drug
    ]
    names = tuple(f"{k} drug" for k in kinds)
    return found + _fit_noise_scales(
        names,
        torch.cat(group_of_voxel),
        share,
        1 - share,
        *_split_systematic_errors(problem, "drug", problem.drug_misfit(fields.pools)),
        0,
    )


def _split_systematic_errors(
    problem: InverseProblem, block: str, residual: Tensor
) -> tuple[Tensor, Tensor]:
    """Residual for systematic errors of zero, and their effect."""
    if problem.errors is None:
        return residual, residual.new_zeros((len(residual), 0))
    shared = problem.errors.contrast if block == "contrast" else problem.errors.drug
    return residual - shared.effect @ shared.reference, shared.effect


def _fit_noise_scales(
    kinds: tuple[str, ...],
    group: Tensor,
    noise: Tensor,
    other: Tensor,
    r: Tensor,
    E: Tensor,
    projected: int,
) -> tuple[NoiseScale, ...]:
    """Maximum a posteriori estimate of the noise scales of groups of residuals.

    Args:
        kinds: name of each group.
        group: group of every residual, ``(n,)``.
        noise: fraction of the variance that is noise, ``(n,)``.
        other: remaining fraction of the variance, ``(n,)``.
        r: whitened residuals for systematic errors of zero, ``(n,)``.
        E: effect of the systematic errors, ``(n, k)``.
        projected: number of directions projected out of the first group.
    """

    def cost(log_s: Tensor) -> Tensor:
        variance = torch.exp(2 * log_s)[group] * noise + other
        sd = variance.sqrt()
        shared = SharedError(E / sd[:, None], E.new_zeros(E.shape[1]))
        log_determinant = (
            torch.log(variance).sum() - 2 * projected * log_s[0] + torch.logdet(shared.precision)
        )
        misfit = shared.eliminate(r / sd).square().sum()
        return 0.5 * (log_determinant + misfit + (log_s / NOISE_SCALE_PRIOR_SD).square().sum())

    def cost_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.tensor(x, dtype=r.dtype, device=r.device, requires_grad=True)
        c = cost(at)
        c.backward()
        assert at.grad is not None
        return float(c.detach()), at.grad.cpu().numpy().astype(np.float64)

    start = [0.5 * float(torch.log(r[group == k].square().mean())) for k in range(len(kinds))]
    best = minimize(cost_and_gradient, np.clip(start, -3, 3), jac=True, method="BFGS").x
    curvature = torch.autograd.functional.hessian(
        cost, torch.tensor(best, dtype=r.dtype, device=r.device)
    )
    sd = torch.linalg.inv(curvature).diagonal().sqrt().cpu().numpy()
    return tuple(
        NoiseScale(k, float(np.exp(x)), float(s)) for k, x, s in zip(kinds, best, sd, strict=True)
    )


def scale_noise(problem: InverseProblem, scales: Mapping[str, float]) -> InverseProblem:
    """Scale the stated noise of a problem.

    Args:
        problem: problem before its fit.
        scales: factor of each kind of observation; 1 for kinds that are not named.

    Returns:
        The problem with scaled noise.
    """
    contrast = replace(
        problem.contrast, noise_sd=problem.contrast.noise_sd * scales.get("contrast agent", 1.0)
    )
    drug = []
    for d in problem.drug:
        s = scales.get(f"{d.quantity} drug", 1.0)
        drug.append(replace(d, noise_sd=d.noise_sd * s, sd=d.noise_sd * s))
    return replace(problem, contrast=contrast, drug=tuple(drug))
