"""Results of a simulated treatment and of a comparison of treatment arms.

A simulation has fields, maps and its mass balance; a comparison has outcomes and penetration curves
with their uncertainty.
"""

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
        flow: Tumour mean of pressure, velocity and filtration ``(t,)``, by name and unit, where no
            drug is given.
    """

    times_s: Array
    tumour: Mapping[str, Array]
    plasma: Mapping[str, Array]
    flow: Mapping[str, Array] = field(default_factory=dict)


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
    """One treatment of one tumour; without a dose, results of drug are empty.

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


#: Quantiles of the central 90 % interval.
LOW, HIGH = 0.05, 0.95


def median_and_interval(values: Array) -> Array:
    """Compute the median and the central 90 % interval over draws.

    Args:
        values: Values ``(draw, ...)``. Row 0 is the run at the medians of all inputs; it is used
            only if there are no draws.

    Returns:
        Median, low and high ``(3, ...)``; NaN where no draw is finite.
    """
    drawn = values[1:] if len(values) > 1 else values
    known = np.isfinite(drawn).any(axis=0)
    out = np.full((3, *drawn.shape[1:]), np.nan)
    if drawn.ndim == 1:
        return np.nanquantile(drawn, [0.5, LOW, HIGH]) if known else out
    out[:, known] = np.nanquantile(drawn[:, known], [0.5, LOW, HIGH], axis=0)
    return out


def probability_of_majority(fractions: Array) -> float:
    """Fraction of the draws in which at least half of the cells are affected.

    Args:
        fractions: Fraction of affected cells ``(draw,)``; row 0 as in
            :func:`median_and_interval`.

    Returns:
        The probability; NaN if no draw is finite.
    """
    drawn = fractions[1:] if len(fractions) > 1 else fractions
    drawn = drawn[np.isfinite(drawn)]
    return float((drawn >= 0.5).mean()) if drawn.size else float("nan")


@dataclass(frozen=True)
class Outcome:
    """One number by which arms are compared.

    Attributes:
        name: Name of the outcome.
        unit: Unit of the values.
        description: What it is, in words.
        values: Values by arm ``(draw,)``; the first is the run at the medians of all inputs. NaN
            where the outcome does not exist.
    """

    name: str
    unit: str
    description: str
    values: Mapping[str, Array]

    def interval(self, arm: str) -> tuple[float, float, float]:
        """Median and ends of the central 90 % interval of an arm."""
        median, low, high = median_and_interval(self.values[arm])
        return float(median), float(low), float(high)


@dataclass(frozen=True)
class PenetrationCurves:
    """Tumour means against the distance from the vessel wall.

    The leading axis of each curve holds median, low and high.

    Attributes:
        distance_um: Distance from the vessel wall ``(x,)``, um.
        times_h: Imaging times ``(t,)``, h.
        cells: Intracellular drug ``(3, t, x)``, ng/1e5 cells.
        free: Free drug in the interstitium ``(3, t, x)``, ug/mL.
        peak: Peak intracellular concentration ``(3, x)``, ng/1e5 cells.
        survival: Surviving fraction by kill model ``(3, x)``.
    """

    distance_um: Array
    times_h: Array
    cells: Array
    free: Array
    peak: Array
    survival: Mapping[str, Array]


@dataclass(frozen=True)
class ComparedArm:
    """One treatment arm: on the voxel grid at the medians, and in the sub-voxel model over draws.

    Attributes:
        name: Name of the arm.
        simulation: Drug pools on the voxel grid, at the medians of all inputs.
        curves: Penetration curves of the tumour.
        maps: Results of the sub-voxel (Krogh cylinder) model on the voxel grid.
        mass_balance_error: Largest relative mass-balance error of all cylinders.
        cluster_peak_concentration: Peak intracellular concentration against distance in each
            cluster of voxels ``(3, cluster, x)``, ng/1e5 cells: median, low, high.
    """

    name: str
    simulation: Simulation
    curves: PenetrationCurves
    maps: Mapping[str, MapEstimate]
    mass_balance_error: float
    cluster_peak_concentration: Array


@dataclass(frozen=True)
class VoxelCluster:
    """A cluster of similar voxels, which the sub-voxel model solves once.

    Attributes:
        voxels: Number of voxels.
        values: Cluster means at the medians of all inputs, by name with unit.
        lethal_fraction: Fraction of the cells beyond the limit that are lethally exposed, by arm:
            median and central 90 % interval.
    """

    voxels: int
    values: Mapping[str, float]
    lethal_fraction: Mapping[str, tuple[float, float, float]]


@dataclass(frozen=True)
class HeatingDurationSweep:
    """Effect of the heating duration on the cells beyond the limit.

    Attributes:
        arm: Name of the heated arm.
        duration_min: Heating durations ``(n,)``, min.
        lethal_fraction: Fraction of these cells that are lethally exposed, by kill
            model ``(3, n)``: median, low, high.
        probability: Probability that at least half of these cells are lethally exposed, by
            kill model ``(n,)``.
    """

    arm: str
    duration_min: Array
    lethal_fraction: Mapping[str, Array]
    probability: Mapping[str, Array]


@dataclass(frozen=True)
class OutcomeChange:
    """Change of one outcome by radiation.

    Attributes:
        description: What the outcome is, in words.
        unit: Unit of the outcome.
        ratio: Ratio with to without radiation over the same draws, median and central 90 %
            interval; a difference if the unit is 1.
        probability_higher: Fraction of the draws in which the outcome is higher with radiation.
    """

    description: str
    unit: str
    ratio: tuple[float, float, float]
    probability_higher: float


@dataclass(frozen=True)
class RadiationComparison:
    """An arm with radiation compared with the same arm without.

    Attributes:
        arm: Name of the arm.
        pressure_time_h: Time at which the interstitial pressure is compared, h.
        rows: Changes of the outcomes.
    """

    arm: str
    pressure_time_h: float
    rows: tuple[OutcomeChange, ...]


@dataclass(frozen=True)
class GlobalSensitivity:
    """Sensitivity of one outcome to its inputs.

    Attributes:
        outcome: name of the outcome.
        inputs: names by falling effect.
        effect: mean absolute elementary effect of each, in the outcome's unit.
        effect_sd: standard deviation of the elementary effects, which shows interaction or
            non-linearity.
        leading: inputs with Sobol indices.
        first: first-order Sobol index of each of these; the other inputs are at their medians.
        total: total Sobol index.
        total_error: half the 95 % interval of the total index.
        valid_share: fraction of the points at which the outcome exists.
    """

    outcome: str
    inputs: tuple[str, ...]
    effect: Array = field(repr=False)
    effect_sd: Array = field(repr=False)
    leading: tuple[str, ...]
    first: Array = field(repr=False)
    total: Array = field(repr=False)
    total_error: Array = field(repr=False)
    valid_share: float


@dataclass(frozen=True)
class InputSensitivity:
    """Sensitivity of an outcome to one input.

    Attributes:
        symbol: Symbol of the input.
        description: What the input is, in words.
        morris: Mean absolute elementary effect (Morris), in units of the outcome per range of the
            input.
        total: Total Sobol index; None if it was not computed.
        total_error: Standard error of the Sobol index.
    """

    symbol: str
    description: str
    morris: float
    total: float | None
    total_error: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Treatment arms of one tumour compared.

    Attributes:
        conclusions: Conclusions, one sentence each. The first answers whether drug reaches cells
            beyond the limit.
        arms: Results of each arm.
        outcomes: Rows of the table of outcomes.
        groups: Clusters of similar voxels.
        heating: Effect of the heating duration; None if it was not compared.
        sensitivities: Sensitivities of one outcome to the inputs, largest first.
        sensitivity_outcome: Which outcome they are of, as a sentence.
        limit_um: Distance from the vessel wall beyond which cells count as far away, um.
        lethal_survival: Surviving fraction at or below which an exposure counts as lethal.
        draws: Number of draws.
        assumptions: Assumptions, one sentence each.
        affine: Affine of the image ``(4, 4)``.
        mask: Tumour ``(x, y, z)``.
        labels: Index of the cluster of each voxel ``(x, y, z)``, -1 outside the tumour.
        seconds: Duration of each part.
        input_hashes: SHA-256 of each input file, by name.
        radiation: Effect of radiation; None if no arm has any.
        prior_only: Whether all scalars of the model were drawn from their priors, so that no
            interval is of this tumour.
    """

    conclusions: tuple[str, ...]
    arms: Mapping[str, ComparedArm]
    outcomes: tuple[Outcome, ...]
    groups: tuple[VoxelCluster, ...]
    heating: HeatingDurationSweep | None
    sensitivities: tuple[InputSensitivity, ...]
    sensitivity_outcome: str
    limit_um: float
    lethal_survival: float
    draws: int
    assumptions: tuple[str, ...]
    affine: Array
    mask: NDArray[np.bool_]
    labels: NDArray[np.int64]
    seconds: Mapping[str, float] = field(default_factory=dict)
    input_hashes: Mapping[str, str] = field(default_factory=dict)
    radiation: RadiationComparison | None = None
    prior_only: bool = False

    def __getitem__(self, name: str) -> Outcome:
        return next(o for o in self.outcomes if o.name == name)

    def __repr__(self) -> str:
        return f"Comparison({', '.join(self.arms)}; {self.draws} draws)"

    def probability(self, arm: str, model: str) -> float:
        """Probability that at least half of the cells beyond the limit are lethally exposed.

        Args:
            arm: Name of the arm.
            model: Key of the kill model.

        Returns:
            Fraction of the draws; NaN if there are no such cells.
        """
        return probability_of_majority(self[f"lethal beyond, {model}"].values[arm])
