"""Result of a forward simulation of one treatment, with its mass balance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nanopinn.results.fit_result import FieldEstimate, MapEstimate

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MassBalance:
    """Mass balance of the drug by pool, mg: ``entered = lost + outflow + stored`` for their sum.

    Exchange between pools is not listed. Plasma perfuses the microvessels, so most of the drug that
    enters them returns to plasma, and is counted in both columns.

    Attributes:
        names: Names of the pools.
        entered: Mass that entered from plasma ``(pool,)``.
        lost: Mass lost through vessel walls, lymph and decay, or back to plasma ``(pool,)``.
        outflow: Mass that left over the boundary of the domain ``(pool,)``.
        stored: Mass at the end ``(pool,)``.
        error: Mass-balance error relative to the largest total.
    """

    names: tuple[str, ...]
    entered: Array
    lost: Array
    outflow: Array
    stored: Array
    error: float


@dataclass(frozen=True)
class TimeCourses:
    """Concentrations at every time step.

    Attributes:
        times_s: Times ``(t,)``, s.
        tumour: Tumour mean of each pool per tissue volume ``(t,)``, ug/mL.
        plasma: Concentration of each kind of drug in plasma ``(t,)``, ug/mL.
    """

    times_s: Array
    tumour: Mapping[str, Array]
    plasma: Mapping[str, Array]


@dataclass(frozen=True)
class PlasmaExposure:
    """Systemic exposure to one kind of drug in plasma, by closed form.

    Attributes:
        name: ``encapsulated``, ``free`` (unbound and albumin-bound) or ``unbound``.
        auc: AUC to the end of the simulation, ug h/mL.
        auc_to_infinity: AUC to infinity, ug h/mL.
        c_max: Peak concentration, ug/mL; a bolus counts as mixed at once.
        t_max_s: Time of the peak, s.
    """

    name: str
    auc: float
    auc_to_infinity: float
    c_max: float
    t_max_s: float


@dataclass(frozen=True)
class Simulation:
    """One treatment of one tumour.

    Attributes:
        treatment: Doses, heating and radiation, one description each.
        fields: Drug pools per tissue volume ``(t, x, y, z)`` at the imaging times, and fields that
            change with them.
        maps: Interstitial pressure and velocity at the start, and pressure after heat and
            radiation.
        courses: Time courses over the whole simulation.
        balance: Mass balance over the whole simulation.
        auc_maps: AUC of each pool per tissue volume over the whole simulation, ug h/mL.
        peak_maps: Peak concentration of each pool per tissue volume, ug/mL.
        exposure: Systemic exposure to each kind of drug.
        solver_statistics: Time steps and iterations, in words.
        assumptions: Assumptions, one sentence each.
        affine: Affine of the image ``(4, 4)``.
        mask: Tumour ``(x, y, z)``.
        seconds: Duration of each part.
        input_hashes: SHA-256 of each input file, by name.
    """

    treatment: tuple[str, ...]
    fields: Mapping[str, FieldEstimate]
    maps: Mapping[str, MapEstimate]
    courses: TimeCourses
    balance: MassBalance
    auc_maps: Mapping[str, MapEstimate]
    peak_maps: Mapping[str, MapEstimate]
    exposure: tuple[PlasmaExposure, ...]
    solver_statistics: str
    assumptions: tuple[str, ...]
    affine: Array
    mask: NDArray[np.bool_]
    seconds: Mapping[str, float] = field(default_factory=dict)
    input_hashes: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Simulation({'; '.join(self.treatment)}; {', '.join(self.fields)})"

    def means(self, name: str) -> Array:
        """Tumour mean of a field at the imaging times ``(t,)``, in the unit of the field."""
        return np.asarray(np.nanmean(self.fields[name].values[:, self.mask], axis=1))
