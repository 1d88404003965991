"""A patient's tumour: its tissue, and the posterior of the scalars of a fitted model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.inference.device import on_device
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.nuisance_scales import AIF_SCALE
from nanopinn.inference.saved_fit import (
    FILE,
    FittedProblem,
    fit_file_path,
    fitted_problem_of,
    load_fit,
)
from nanopinn.inference.uncertainty.prior_conflict import ConsideredPosterior
from nanopinn.inference.unknowns import UnknownSet
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.tissue_maps import MARGIN_M
from nanopinn.physics.treatment import Treatment
from nanopinn.solvers.grid import Domain
from nanopinn.studies.simulation_parameters import StatedValues
from nanopinn.studies.tissue_source import SimulatedTissue, tissue_from_phantom

if TYPE_CHECKING:
    from nanopinn.settings import PhantomSettings

Array = NDArray[np.float64]

#: Upper bounds of scalars that are fractions by definition, such as the transmission of a wall.
SCALAR_UPPER_BOUNDS = {"leak_l": 1.0}


#: Scalars that a fit has for the carrier that was imaged and that hold for no other: a factor on
#: its own leak.
SCALARS_OF_ONE_CARRIER = frozenset({"leak_factor"})


def imaged_treatment(problem: InverseProblem) -> Treatment | None:
    """The treatment that the drug images of a fit showed; None without drug images."""
    return problem.course.treatment if problem.drug and problem.course is not None else None


@dataclass(frozen=True)
class Patient:
    """Tissue of a tumour with the posterior of its scalars.

    Attributes:
        tissue: maps, grid and box, with the scalars (and weights of functions) at their medians.
        names: of the unknowns, in order: scalars, weights of functions, and ``aif_scale`` last
            where it was fitted; () where all are known.
        mean: of the unknowns' coordinates (logarithm or value), ``(m,)``.
        covariance: of the unknowns' coordinates, ``(m, m)``.
        unknowns: definitions of the coordinates.
        flow_refine: cells of the flow per voxel edge, as in the fit.
        rim: distance from the tumour's edge within which voxels are refined, m; None: everywhere.
        imaged_formulation: name of the formulation that post-dose images showed, if there were any.
        imaged: the treatment that they showed, if there were any.
        considered: parameters that the fit considered besides its unknowns, if there were any.
    """

    tissue: SimulatedTissue
    names: tuple[str, ...] = ()
    mean: Array = field(default_factory=lambda: np.zeros(0))
    covariance: Array = field(default_factory=lambda: np.zeros((0, 0)))
    unknowns: UnknownSet = field(default_factory=lambda: UnknownSet(()))
    flow_refine: int = 1
    rim: float | None = None
    imaged_formulation: str | None = None
    imaged: Treatment | None = None
    considered: ConsideredPosterior | None = None

    @classmethod
    def from_result_folder(cls, folder: str | Path, device: str = "cpu") -> Patient:
        """The tumour of a fit's result folder, as fitted, with its posterior.

        Args:
            folder: result folder of a fit.
            device: of the tensors.

        Raises:
            InputError: the folder holds no fit (one of maps only holds none), or one that cannot be
                read.
        """
        folder = Path(folder)
        if not fit_file_path(folder).is_file() and (folder / "maps").is_dir():
            raise InputError(
                "the folder holds maps but no posterior",
                file=folder,
                found=f"no {FILE}",
                expected="the result folder of a fit",
                remedy="Fit the same scan.",
            )
        fit = load_fit(folder)
        patient = cls.from_fitted_problem(
            on_device(fitted_problem_of(fit, "a comparison of treatments"), device),
            fit.covariance,
            fit.mask,
            fit.affine,
            name=str(folder),
        )
        informed = ", ".join(s.label for s in fit.scalars if s.informed) or "nothing"
        informed_by_images = (
            f"Of the unknowns of the fit the images informed {informed}; the others are"
            " prior-dominated."
        )
        tissue = replace(
            patient.tissue,
            assumptions=(*patient.tissue.assumptions, informed_by_images),
            files=(fit_file_path(folder),),
        )
        return replace(patient, tissue=tissue)

    @classmethod
    def from_fitted_problem(
        cls,
        fitted: FittedProblem,
        covariance: Array,
        mask: NDArray[np.bool_],
        affine: Array,
        *,
        name: str = "the fit",
    ) -> Patient:
        """The tumour of a fit in memory.

        Args:
            fitted: the problem with its estimate.
            covariance: of every unknown, ``(m, m)``.
            mask: tumour of the scan, ``(x, y, z)``.
            affine: of the scan.
            name: of the fit, in errors.

        Raises:
            InputError: mask and problem do not belong together, or the posterior is not finite.
        """
        problem, point = fitted.problem, fitted.full_theta
        maps, grid = problem.setting.maps, problem.setting.grid
        domain = Domain.from_mask(mask, grid.spacing, MARGIN_M, maps.cut)
        if domain.shape != grid.shape or not np.array_equal(
            domain.crop(mask.astype(float), 0.0), maps.tumour.cpu().numpy()
        ):
            raise InputError(
                "the fit's box does not belong to its mask",
                file=name,
                found=domain.shape,
                expected=str(grid.shape),
                remedy="Run the fit again with this version.",
            )
        if covariance.shape != (len(point), len(point)) or not np.isfinite(covariance).all():
            raise InputError(
                "the fit's posterior cannot be used",
                file=name,
                field="covariance",
                found=covariance.shape,
                expected=f"finite, {len(point)} x {len(point)}",
                remedy="Run the fit again.",
            )
        notes: tuple[str, ...] = (
            (
                f"Tissue and scalars are those of the fit; {len(point)} unknowns have its Laplace"
                " posterior. The assumptions of the fit, which its report lists, hold here too."
            ),
        )
        if problem.setting.release_jump_times_s:
            notes = (
                *notes,
                (
                    "Changes of the release rate in time belong to the dose that was imaged; arms"
                    " have the release rate before the first change."
                ),
            )
        tissue = SimulatedTissue(maps, grid, domain, {}, affine, mask, notes)
        names = (*problem.unknowns.names, *((AIF_SCALE,) if fitted.aif_sd else ()))
        imaged = imaged_treatment(problem)
        imaged_formulation = None
        if imaged is not None:
            imaged_formulation = (imaged.carrier or imaged.doses[0].formulation).name
        patient = cls(
            tissue,
            names,
            point,
            covariance,
            problem.unknowns,
            problem.setting.flow_refine,
            problem.setting.rim,
            imaged_formulation,
            imaged,
            fitted.considered,
        )
        return patient._with_medians_at(point)

    @classmethod
    def from_phantom(
        cls, settings: PhantomSettings, device: str = "cpu", *, scalars_are_known: bool = True
    ) -> Patient:
        """The tumour of the digital phantom.

        Args:
            settings: of the phantom.
            device: of the tensors.
            scalars_are_known: whether the scalars are the true ones; otherwise only the tissue is.
        """
        tissue = tissue_from_phantom(settings, device, scalars_are_known=scalars_are_known)
        return cls(tissue, flow_refine=2)

    def with_stated_scalars(self, stated: StatedValues) -> Patient:
        """The same with some scalars of its tissue replaced, and the statement that they are."""
        scalars = {**self.tissue.scalars, **stated.scalars}
        said = (*self.tissue.assumptions, *stated.assumptions)
        return replace(self, tissue=replace(self.tissue, scalars=scalars, assumptions=said))

    def scalars_for(self, carrier: Formulation | None) -> dict[str, float | Array]:
        """Medians of the scalars for a treatment with a carrier.

        Those that describe the carrier that was imaged have no value for another one.

        Args:
            carrier: encapsulated formulation of the treatment, if there is one.
        """
        other = carrier is None or carrier.name != self.imaged_formulation
        return {
            k: v
            for k, v in self.tissue.scalars.items()
            if not (other and k in self.names and k in SCALARS_OF_ONE_CARRIER)
        }

    def with_prior_uncertainty(self) -> Patient:
        """The same tissue with the prior in place of the posterior.

        Raises:
            InputError: the scale of the arterial input is among the unknowns.
        """
        u, extra = self.unknowns, self.names[len(self.unknowns) :]
        if extra:
            raise InputError(
                "the prior of the arterial input's scale is not part of a posterior", field=extra[0]
            )
        covariance = np.diag(u.prior_sd**2)
        prior = replace(self, mean=u.prior_mean, covariance=covariance, considered=None)
        return prior._with_medians_at(u.prior_mean)

    def _with_medians_at(self, theta: Array) -> Patient:
        """The same with the scalars of its tissue at coordinates ``(m,)``."""
        median = {
            k: float(v[0]) if v.ndim == 1 else v[0] for k, v in self.scalars_at(theta[None]).items()
        }
        return replace(self, tissue=replace(self.tissue, scalars=median))

    def scalars_at(self, theta: Array) -> dict[str, Array]:
        """Scalars of the model at given coordinates.

        Args:
            theta: coordinates, ``(n, m)``.

        Returns:
            By name, ``(n,)`` in SI; weights of functions ``(n, k)``.
        """
        found = self.unknowns.scalars(
            torch.as_tensor(np.ascontiguousarray(theta[:, : len(self.unknowns)].T))
        )
        plain = {name: np.asarray(v.numpy().T) for name, v in found.items()}
        return {
            name: np.minimum(v, SCALAR_UPPER_BOUNDS[name]) if name in SCALAR_UPPER_BOUNDS else v
            for name, v in plain.items()
        }

    def relative_aif_scale(self, theta: Array) -> Array:
        """Scale of the arterial input over its estimate, by which PS, phi and v_p are divided.

        Args:
            theta: coordinates, ``(n, m)``.

        Returns:
            ``(n,)``.
        """
        if AIF_SCALE not in self.names:
            return np.ones(len(theta))
        at = self.names.index(AIF_SCALE)
        return np.asarray(np.exp(theta[:, at] - self.mean[at]))
