"""The complete inverse problem of the voxel engines, relinearised between their steps.

Updated at each estimate are the kinetic maps, the pH error and the effect of the systematic errors.
The measured kinetic maps describe the curve of each voxel by itself, including transport between
voxels. The maps of the tissue are those for which the curves of the model, fitted voxel by voxel,
reproduce the measured maps: the fixed point of an under-relaxed iteration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.imaging.dce.impulse_response import InputCurve, PlasmaCurve
from nanopinn.imaging.dce.models import extended_tofts
from nanopinn.imaging.dce.voxel_fit import fit_kinetics
from nanopinn.inference.basis import FunctionUnknown
from nanopinn.inference.error_effects import systematic_error_effects, with_scales
from nanopinn.inference.observations import ContrastObservation, DrugObservation
from nanopinn.inference.systematic import ModelError, SystematicErrors
from nanopinn.inference.tumour_problem import AnyTumourProblem, Fields, TumourProblem
from nanopinn.inference.unknowns import Unknown, UnknownSet
from nanopinn.parameters import Parameter, ParameterDistribution, Prior
from nanopinn.physics.circulation import Circulation, FreeDrugKinetics
from nanopinn.physics.drug_pools import DrugPoolOptions
from nanopinn.physics.flow import permeability_from_ktrans
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.heat import HeatEffects, TemperatureCourse, TemperatureSegment
from nanopinn.physics.measured_plasma import MeasuredPlasma, PlasmaSamples
from nanopinn.physics.plasma import Dose
from nanopinn.physics.release import ReleaseTrigger
from nanopinn.physics.species import Species, Subject
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.physics.treatment import Fraction, GivenDose, Heating, RadiationCourse, Treatment
from nanopinn.solvers.drug_course import DrugCourse
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.tissue_setting import TissueSetting

Array = NDArray[np.float64]

#: Change of the unknowns and of the pH error, in prior standard deviations, up to which a
#: linearisation is kept.
LINEARISATION_RADIUS = 0.08
#: Change of a considered parameter, in prior standard deviations, up to which it is kept.
MAX_DEVIATE_CHANGE = 0.15
#: Change of the logarithm of an image's scale up to which a linearisation is kept.
MAX_SCALE_CHANGE = 0.02
#: Largest factor by which a kinetic map changes between two linearisations.
MAX_MAP_RATIO = 1.25
#: Under-relaxation factor of the kinetic maps; full steps of the fixed-point iteration would
#: overshoot.
RELAXATION_FACTOR = 0.6


def update_kinetic_maps(
    problem: AnyTumourProblem, theta: Array, fields: Fields
) -> AnyTumourProblem:
    """Update the kinetic maps by a fixed-point correction for flow, and the pH error and the scales
    of the images from the drug images.

    Args:
        problem: problem before the update.
        theta: coordinates, ``(m,)``.
        fields: fields of the problem at ``theta``.

    Returns:
        The updated problem; the same problem if its linearisation is still valid.
    """
    found = _estimate_included_errors(problem, fields)
    pH_error, scale = found.pH, found.scale
    drug = with_scales(problem.drug, scale) if len(scale) else problem.drug
    if problem.errors is not None and _linearisation_is_valid(problem, theta, found, drug):
        return problem
    # without drug images the flow is not determined independently of the maps, so the maps stay as
    # measured
    local = problem.local_kinetics
    if problem.drug:
        relaxation = 1.0 if problem.errors is None else RELAXATION_FACTOR
        local = _update_local_kinetics(problem, fields, relaxation)
    maps = replace(
        problem.setting.maps,
        PS=permeability_from_ktrans(local[0], fields.flow.J_v),
        phi=local[1],
        v_p=local[2],
        pH=problem.measured_pH + torch.einsum("k,kxyz->xyz", pH_error, problem.pH_error_basis),
    )
    errors = (
        None
        if problem.errors is None
        else replace(
            problem.errors,
            pH=pH_error,
            scale=scale,
            contrast_parameters=found.contrast_parameters,
            drug_parameters=found.drug_parameters,
        )
    )
    return replace(
        problem,
        local_kinetics=local,
        setting=replace(problem.setting, maps=maps),
        errors=errors,
        drug=drug,
    )


def _linearisation_is_valid(
    problem: TumourProblem,
    theta: Array,
    found: _IncludedErrors,
    drug: Sequence[DrugObservation],
) -> bool:
    """Whether the changes are so small that the objective can stay fixed."""
    last = problem.errors
    assert last is not None
    if not np.isfinite(last.grid_theta).all():
        return False
    change = np.abs(theta - last.theta) / problem.unknowns.prior_sd
    rescaled = [abs(np.log(a.scale / b.scale)) for a, b in zip(drug, problem.drug, strict=True)]
    return (
        max(rescaled, default=0.0) < MAX_SCALE_CHANGE
        and _largest_change(found.contrast_parameters, last.contrast_parameters)
        < MAX_DEVIATE_CHANGE
        and _largest_change(found.drug_parameters, last.drug_parameters) < MAX_DEVIATE_CHANGE
        and bool(change.max() < LINEARISATION_RADIUS)
        and float((found.pH - last.pH).square().mean().sqrt()) < LINEARISATION_RADIUS
    )


def _largest_change(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max()) if len(a) else 0.0


@dataclass(frozen=True)
class _IncludedErrors:
    """Conditional estimates of the errors that predictions include.

    Attributes:
        pH: of the pH map, ``(k,)``.
        scale: of the scales of the drug images, ``(s,)``.
        contrast_parameters, drug_parameters: deviates of the considered parameters.
    """

    pH: Tensor
    scale: Tensor
    contrast_parameters: Tensor
    drug_parameters: Tensor


def _estimate_included_errors(problem: TumourProblem, fields: Fields) -> _IncludedErrors:
    none = problem.pH_error_basis.new_zeros(0)
    pH = problem.pH_error_basis.new_zeros(len(problem.pH_error_basis))
    errors = problem.errors
    if errors is None:
        return _IncludedErrors(pH, none, none, none)
    curves = problem.contrast.residual(fields.contrast).reshape(-1)
    contrast = errors.contrast.conditional_estimate(curves)[errors.contrast_columns["parameters"]]
    if fields.pools is None:
        return _IncludedErrors(pH, none, contrast, none)
    found = errors.drug.conditional_estimate(problem.drug_misfit(fields.pools))
    of = errors.drug_columns
    # Predictions include the shared error of the map, which is the last, and no error of voxels.
    # Derivatives at voxel errors that were estimated from the same images would correlate with
    # the noise, which biases the release rate upward.
    pH[-1] = found[of["pH"]][-1]
    return _IncludedErrors(pH, found[of["scale"]], contrast, found[of["parameters"]])


def _update_local_kinetics(problem: TumourProblem, fields: Fields, relaxation: float) -> Tensor:
    """Relaxed step towards maps for which the model's curves, fitted voxel by voxel, give the
    measured maps.
    """
    voxels = problem.contrast.voxels
    curve = InputCurve(problem.aif, problem.frame_times, str(voxels.device))
    fit = fit_kinetics(extended_tofts, fields.contrast[:, voxels].T.contiguous(), curve)
    apparent, measured, old = (
        fit.parameters.T,
        problem.kinetics[:, voxels],
        problem.local_kinetics[:, voxels],
    )
    scale = (measured[:2] / apparent[:2]).clamp(1 / MAX_MAP_RATIO, MAX_MAP_RATIO) ** relaxation
    new = torch.cat(
        [old[:2] * scale, (old[2:] + relaxation * (measured[2:] - apparent[2:])).clamp(0.0, 0.5)]
    )
    new[1] = new[1].clamp(0.05, 0.9)
    local = problem.local_kinetics.clone()
    local[:, voxels] = torch.where(fit.converged & torch.isfinite(new).all(dim=0), new, old)
    return local


@dataclass(frozen=True)
class InverseProblem(TumourProblem):
    """The voxel problem with kinetic maps and systematic errors that follow the estimate."""

    def update_linearisation(self, theta: Array, fields: Fields) -> InverseProblem:
        """The problem with kinetic maps and pH error updated from the fields at theta.

        Args:
            theta: coordinates, ``(m,)``.
            fields: fields at theta.

        Returns:
            A new problem, or this one where the update would not change the result.
        """
        return update_kinetic_maps(self, theta, fields)

    def with_systematic_errors(self, theta: Array, fields: Fields) -> InverseProblem:
        """The problem with the effect of systematic errors on its observations at theta.

        Args:
            theta: coordinates, ``(m,)``.
            fields: at theta, of this problem's maps.
        """
        return systematic_error_effects(self, theta, fields)


#: Every class of which a problem consists, for its file.
SERIALISABLE_PARTS: tuple[type, ...] = (
    Circulation,
    ContrastObservation,
    Dose,
    DrugCourse,
    DrugObservation,
    DrugPoolOptions,
    Formulation,
    Fraction,
    FreeDrugKinetics,
    FunctionUnknown,
    GivenDose,
    Grid,
    HeatEffects,
    Heating,
    InverseProblem,
    MeasuredPlasma,
    ModelError,
    Parameter,
    ParameterDistribution,
    PlasmaCurve,
    PlasmaSamples,
    Prior,
    RadiationCourse,
    ReleaseTrigger,
    Species,
    Subject,
    SystematicErrors,
    TemperatureCourse,
    TemperatureSegment,
    TissueMaps,
    TissueSetting,
    Treatment,
    Unknown,
    UnknownSet,
)
