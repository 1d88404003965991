"""The complete inverse problem of the voxel engines, and the classes that a file of it may hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanopinn.imaging.dce.plasma_curve import PlasmaCurve
from nanopinn.inference.basis import FunctionUnknown
from nanopinn.inference.observations import ContrastObservation, DrugObservation
from nanopinn.inference.relinearise import systematic_error_effects, update_kinetic_maps
from nanopinn.inference.systematic import ModelError, SystematicErrors
from nanopinn.inference.tumour_problem import Fields, TumourProblem
from nanopinn.inference.unknowns import Unknown, UnknownSet
from nanopinn.physics.plasma import SumOfExponentials
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.tissue_setting import Setting

Array = NDArray[np.float64]


@dataclass(frozen=True)
class InverseProblem(TumourProblem):
    """The voxel problem with kinetic maps and systematic errors that follow the estimate."""

    def update_linearisation(self, theta: Array, here: Fields) -> InverseProblem:
        """The problem with kinetic maps and pH error updated from the fields at theta.

        Args:
            theta: coordinates, ``(m,)``.
            here: fields at theta.

        Returns:
            A new problem, or this one where the update would not change the result.
        """
        return update_kinetic_maps(self, theta, here)

    def with_systematic_errors(self, theta: Array, fields: Fields) -> InverseProblem:
        """The problem with the effect of systematic errors on its observations at theta.

        Args:
            theta: coordinates, ``(m,)``.
            fields: at theta, of this problem's maps.
        """
        return systematic_error_effects(self, theta, fields)


#: Every class of which a problem consists, for its file.
SERIALISABLE_PARTS: tuple[type, ...] = (
    ContrastObservation,
    DrugObservation,
    FunctionUnknown,
    Grid,
    InverseProblem,
    ModelError,
    PlasmaCurve,
    Setting,
    SumOfExponentials,
    SystematicErrors,
    TissueMaps,
    Unknown,
    UnknownSet,
)
