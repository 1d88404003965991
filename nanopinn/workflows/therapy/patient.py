"""A tumour with what is known of it: tissue as a fit left it, and the posterior of its unknowns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.inference.aif_scale import AIF_SCALE as AIF_SCALE
from nanopinn.inference.checkpoint import FILE, FittedProblem, load_fit, fit_file_path
from nanopinn.inference.device import on_device
from nanopinn.inference.unknowns import UnknownSet
from nanopinn.physics.formulation import PH_SENSITIVE
from nanopinn.solvers.domain import Domain
from nanopinn.workflows.simulate.sources import SimulatedTissue, tissue_from_phantom
from nanopinn.workflows.tissue import MARGIN_M

if TYPE_CHECKING:
    from nanopinn.workflows.settings import PhantomSettings

Array = NDArray[np.float64]

#: Largest values of scalars that are shares by definition: no wall lets through more than all of what is filtered.
SCALAR_UPPER_BOUNDS = {"leak_l": 1.0}


@dataclass(frozen=True)
class Patient:
    """Tissue with what is known of its scalars.

    Attributes:
        tissue: maps, grid and box, with the scalars (and weights of functions) at their medians.
        names: of the unknowns, in order: scalars, weights of functions, and ``aif_scale`` last where it was fitted; () where
            everything is known.
        mean, covariance: of the unknowns' coordinates (logarithm or value), ``(m,)`` and ``(m, m)``.
        unknowns: what the coordinates mean.
        flow_refine, rim: cells of the flow per voxel edge, and how near to the tumour's edge (m), as in the fit.
        imaged: name of the formulation that post-dose images showed, if there were any.
    """

    tissue: SimulatedTissue
    names: tuple[str, ...] = ()
    mean: Array = field(default_factory=lambda: np.zeros(0))
    covariance: Array = field(default_factory=lambda: np.zeros((0, 0)))
    unknowns: UnknownSet = field(default_factory=lambda: UnknownSet(()))
    flow_refine: int = 1
    rim: float | None = None
    imaged_formulation: str | None = None

    @classmethod
    def from_result_folder(cls, folder: str | Path, device: str = "cpu") -> Patient:
        """The tumour of a ``nanopinn fit`` folder, exactly as fitted, with its posterior.

        Raises:
            InputError: it holds no fit (that of ``nanopinn maps`` holds none), or one that cannot be read.
        """
        folder = Path(folder)
        if not fit_file_path(folder).is_file() and (folder / "maps").is_dir():
            raise InputError(
                "the folder holds maps but no posterior",
                file=folder,
                found=f"no {FILE}",
                expected="the --out of `nanopinn fit`",
                remedy="Run `nanopinn fit` on the same scan, or ask for 0 draws: every scalar then has its table value.",
            )
        fit = load_fit(folder)
        if fit.fitted_problem is None:
            raise InputError(
                "the fit does not hold its problem",
                file=fit_file_path(folder),
                remedy="Run the fit again with this version.",
            )
        patient = cls.from_checkpoint(
            on_device(fit.fitted_problem, device),
            fit.covariance,
            fit.mask,
            fit.affine,
            name=str(folder),
        )
        informed = ", ".join(s.label for s in fit.scalars if s.informed) or "nothing"
        said = (
            f"Of the fit's unknowns the images informed {informed}; the others carry their priors."
        )
        tissue = replace(
            patient.tissue,
            assumptions=(*patient.tissue.assumptions, said),
            files=(fit_file_path(folder),),
        )
        return replace(patient, tissue=tissue)

    @classmethod
    def from_checkpoint(
        cls,
        ended: FittedProblem,
        covariance: Array,
        mask: NDArray[np.bool_],
        affine: Array,
        *,
        name: str = "the fit",
    ) -> Patient:
        """The tumour of a fit at hand.

        Args:
            covariance: of every unknown, ``(m, m)``. mask, affine: of the scan that the fit's box was cut from.

        Raises:
            InputError: they do not belong together, or the posterior is not finite.
        """
        problem, point = ended.problem, ended.full_theta
        maps, grid = problem.setting.maps, problem.setting.grid
        domain = Domain.around(mask, grid.spacing, MARGIN_M, maps.cut)
        if domain.shape != grid.shape or not np.array_equal(
            domain.take(mask.astype(float), 0.0), maps.tumour.cpu().numpy()
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
            f"Tissue and scalars are as fitted; {len(point)} unknowns are uncertain as the fit's Laplace posterior says. What the fit "
            "assumed holds here too: its report lists it.",
        )
        if problem.setting.release_jump_times_s:
            notes = (
                *notes,
                "Changes of the release rate in time are of the dose that was imaged: arms release as before the first.",
            )
        tissue = SimulatedTissue(maps, grid, domain, {}, affine, mask, notes)
        names = (*problem.unknowns.names, *((AIF_SCALE,) if ended.aif_sd else ()))
        imaged_formulation = PH_SENSITIVE.name if problem.drug else None
        patient = cls(
            tissue,
            names,
            point,
            covariance,
            problem.unknowns,
            problem.setting.flow_refine,
            problem.setting.rim,
            imaged_formulation,
        )
        median = {
            k: float(v[0]) if v.ndim == 1 else v[0]
            for k, v in patient.scalars_at(point[None]).items()
        }
        return replace(patient, tissue=replace(tissue, scalars=median))

    @classmethod
    def from_phantom(cls, settings: PhantomSettings, device: str = "cpu") -> Patient:
        """The digital phantom's tumour, whose tissue and scalars are known."""
        return cls(tissue_from_phantom(settings, device), flow_refine=2)

    def with_prior_uncertainty(self) -> Patient:
        """The same tissue, with the unknowns of the fit as uncertain as before any image."""
        u, extra = self.unknowns, self.names[len(self.unknowns) :]
        if extra:
            raise InputError(
                "the prior of the arterial input's scale is not part of a posterior", field=extra[0]
            )
        median = {
            k: float(v[0]) if v.ndim == 1 else v[0]
            for k, v in self.scalars_at(u.prior_mean[None]).items()
        }
        return replace(
            self,
            tissue=replace(self.tissue, scalars=median),
            mean=u.prior_mean,
            covariance=np.diag(u.prior_sd**2),
        )

    def scalars_at(self, theta: Array) -> dict[str, Array]:
        """Model scalars (SI) ``(n,)``, and weights of functions ``(n, k)``, at coordinates ``(n, m)``."""
        found = self.unknowns.scalars(
            torch.as_tensor(np.ascontiguousarray(theta[:, : len(self.unknowns)].T))
        )
        plain = {name: np.asarray(v.numpy().T) for name, v in found.items()}
        return {
            name: np.minimum(v, SCALAR_UPPER_BOUNDS[name]) if name in SCALAR_UPPER_BOUNDS else v
            for name, v in plain.items()
        }

    def relative_aif_scale(self, theta: Array) -> Array:
        """What PS, phi and v_p of the maps are divided by at coordinates ``(n, m)``: the arterial input's scale over its estimate."""
        if AIF_SCALE not in self.names:
            return np.ones(len(theta))
        at = self.names.index(AIF_SCALE)
        return np.asarray(np.exp(theta[:, at] - self.mean[at]))

    def __repr__(self) -> str:
        known = ", ".join(
            f"{n} +- {sd:.2g}"
            for n, sd in zip(self.names, np.sqrt(np.diag(self.covariance)), strict=True)
        )
        return f"Patient({'x'.join(map(str, self.tissue.grid.shape))} voxels; {known or 'every scalar known'})"
