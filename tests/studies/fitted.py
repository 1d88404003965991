"""A fit with a posterior that no engine computed, for tests of functions that take a fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from nanopinn.imaging.dce.impulse_response import PlasmaCurve
from nanopinn.inference.basis import centre_shapes, field_unknown, gaussian_radial_basis
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.observations import ContrastObservation
from nanopinn.inference.saved_fit import FittedProblem
from nanopinn.inference.unknowns import UnknownSet, scalar_unknowns
from nanopinn.parameters import value
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.plasma import Dose
from nanopinn.physics.tissue_maps import MARGIN_M, TissueMaps
from nanopinn.physics.treatment import Fraction, GivenDose, RadiationCourse, Treatment
from nanopinn.solvers.grid import Domain, Grid
from nanopinn.solvers.tissue_setting import TissueSetting

VOXEL = 0.5e-3


@dataclass(frozen=True)
class Given:
    """A treatment with its name."""

    name: str
    treatment: Treatment


def arm(formulation: Formulation, fractions: tuple[Fraction, ...] = ()) -> Given:
    doses = (GivenDose(formulation, Dose(0.0, 90e-6)),)
    return Given(
        formulation.name, Treatment(doses, (), RadiationCourse(fractions), (3600.0,), 3600.0)
    )


def ended() -> tuple[FittedProblem, np.ndarray, np.ndarray]:
    """A fit of ten scalars and a field of filtration, its posterior and its mask; its data do not
    matter here.
    """
    x = (np.arange(12) + 0.5) * VOXEL - 3e-3
    mask = np.asarray(
        (x[:, None, None] ** 2 + x[None, :, None] ** 2 + x[None, None, :] ** 2) < 1.8e-3**2
    )
    domain = Domain.from_mask(mask, (VOXEL,) * 3, MARGIN_M)
    tumour = torch.as_tensor(domain.crop(mask.astype(float), 0.0))
    along = torch.linspace(-1, 1, domain.shape[0], dtype=torch.float64)[:, None, None].expand(
        domain.shape
    )
    one = torch.ones_like(tumour)
    shapes = centre_shapes(
        torch.as_tensor(gaussian_radial_basis(tumour.numpy() > 0.5, np.full(3, VOXEL), 1.5e-3)),
        tumour > 0.5,
        0.5,
    )
    maps = TissueMaps(
        tumour,
        torch.where(tumour > 0.5, 1.5e-3 * torch.exp(along), value("Ktrans_n")),
        0.3 * one,
        0.03 * torch.exp(0.5 * along),
        6.9 + 0.2 * along,
        {"filtration": shapes},
    )
    unknowns = UnknownSet(scalar_unknowns(), (field_unknown("filtration", shapes, 0.5, 1.5e-3),))
    voxels = tumour > 0.5
    count, blank = int(voxels.sum()), torch.zeros((1, *domain.shape), dtype=torch.float64)
    nothing = ContrastObservation(
        torch.zeros(3, count).double(),
        torch.ones(count).double(),
        voxels,
        torch.zeros(count, 3, 1).double(),
    )
    local = torch.stack([maps.PS, maps.phi, maps.v_p])
    setting = TissueSetting(maps, Grid(domain.shape, (VOXEL,) * 3), 1)
    problem = InverseProblem(
        unknowns=unknowns,
        setting=setting,
        kinetics=local,
        local_kinetics=local,
        aif=PlasmaCurve(np.arange(3.0), np.ones(3)),
        frame_times=np.arange(3.0),
        contrast=nothing,
        drug=(),
        course=None,
        pH_error_basis=blank,
        closure_basis=blank,
        kinetic_covariance=torch.zeros((2, 2, *domain.shape), dtype=torch.float64),
    )
    m, rng = len(unknowns), np.random.default_rng(1)
    root = 0.3 * rng.standard_normal((m, m)) / np.sqrt(m)
    covariance = root @ root.T + np.diag((0.2 * unknowns.prior_sd) ** 2)
    return (
        FittedProblem(problem, unknowns.prior_mean + 0.1 * rng.standard_normal(m)),
        covariance,
        mask,
    )
