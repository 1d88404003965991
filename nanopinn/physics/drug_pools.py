"""Drug pools of a formulation: encapsulated, free, albumin-bound and cellular drug.

    phi dL/dt  + div(f_l u L) = div(phi D_l grad L) + Phi_l - phi (k_rel + k_dl) L
    phi dF/dt  + div(u F)     = div(phi D_f grad F) + Phi_f + phi k_rel L - phi (k_a F - k_d B) - z
    phi dB/dt  + div(u B)     = div(phi D_b grad B) + Phi_b + phi (k_a F - k_d B)
    dI/dt = z - k_on I + k_off N,    dN/dt = k_on I - k_off N
    Phi_j = a_j C_jv - b_j C_j - J_L C_j
    v_p dC_lv/dt = Q (C_l - C_lv) - v_p k_T C_lv - a_l C_lv + b_l L
    v_p dC_fv/dt = Q (C_f - C_fv) + v_p k_T C_lv - Phi_f - Phi_b

L, F and B are per interstitial volume (phi), I and N per tissue volume, and the pools of the
microvessels (transit time v_p/Q) per plasma volume. C_l and C_f are the plasma of the large
vessels. a and b are the exchange coefficients of
:func:`nanopinn.physics.flow.exchange_coefficients`. Albumin binds the share ``fb`` of the drug in
plasma, at equilibrium there. A carrier of which only a share releases is two carriers: ``retained``
holds the drug that is never released.

:data:`DRUG_POOLS` declares every pool. Another pool is one entry there, rows of its parameters in
the table, and its name in the options of the model that solves it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nanopinn.parameters import Values
from nanopinn.physics.cell_kill import CELLS_PER_UNIT, efflux_rate, uptake_rate
from nanopinn.physics.circulation import PlasmaDrug
from nanopinn.physics.flow import exchange_coefficients
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.plasma import PlasmaInput
from nanopinn.physics.pools import PoolAssembler, PoolCoefficients
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.physics.tumour import TumourModel

#: Plasma curves that feed the pools: encapsulated drug that can be released, unbound free drug,
#: encapsulated drug that cannot be released.
ENCAPSULATED, UNBOUND, RETAINED = 0, 1, 2


#: Constants of the tumour's wall, tissue and cells on which the drug pools depend.
WALL_SYMBOLS = ("SV_t", "P_f_t", "sigma_f", "D_f_t", "P_b_t", "sigmaT_t", "D_b_t", "k_a", "k_d")
CELL_SYMBOLS = ("rho_c", "Vmax", "K_e", "K_i", "k_off_DNA", "g_pH")
TISSUE_DRUG_SYMBOLS = (*WALL_SYMBOLS, *CELL_SYMBOLS)


@dataclass(frozen=True)
class DrugPoolOptions:
    """Which pools are solved in addition to free, intracellular and nuclear drug.

    Attributes:
        carrier: encapsulated drug.
        retained: encapsulated drug that is never released.
        bound: drug on albumin in the interstitium.
        saturable: saturable transport into cells in place of its linear range.
        vessels: a local plasma pool, in which heated carriers release during their transit.
        further: names of further pools of :data:`DRUG_POOLS`.
    """

    carrier: bool = True
    retained: bool = False
    bound: bool = False
    saturable: bool = False
    vessels: bool = False
    further: tuple[str, ...] = ()

    @property
    def pools(self) -> tuple[str, ...]:
        """Names of the pools, in order."""
        return tuple(name for name, pool in DRUG_POOLS.items() if pool.included(self))


#: Linear pools that images of one or two days without heat can identify; their fits are exact.
LINEAR_POOLS = DrugPoolOptions(bound=True)
#: Every pool of the package for a carrier that releases all of its drug.
FULL_POOLS = DrugPoolOptions(bound=True, saturable=True, vessels=True)


@dataclass(frozen=True)
class PoolConditions:
    """Fluxes and rates at which the pools of a model are assembled.

    Attributes:
        J_v: filtration, ``(x, y, z)``, 1/s.
        J_L: lymphatic drainage, ``(x, y, z)``, 1/s.
        options: which pools there are.
        release: release rate of the carrier in tissue, ``(x, y, z)``, 1/s.
        vessel_release: release rate that heat adds in microvessels, ``(x, y, z)``, 1/s.
    """

    J_v: Tensor
    J_L: Tensor
    options: DrugPoolOptions
    release: Tensor | None = None
    vessel_release: Tensor | None = None


@dataclass(frozen=True)
class DrugPool:
    """Declaration of one pool.

    Attributes:
        name: in results and files.
        description: for text.
        volume: to which its concentration refers: interstitial fluid, tissue (drug in cells) or
            plasma of the microvessels.
        encapsulated: whether the drug is inside carriers.
        included: whether the options include it.
        add: adds its capacity, transport, exchange and reactions to an assembler.
    """

    name: str
    description: str
    volume: Literal["interstitium", "tissue", "plasma"]
    encapsulated: bool
    included: Callable[[DrugPoolOptions], bool]
    add: Callable[[PoolAssembler, TumourModel, PoolConditions], None]


def drug_pools(
    model: TumourModel,
    J_v: Tensor,
    J_L: Tensor,
    detail: DrugPoolOptions = LINEAR_POOLS,
    release: Tensor | None = None,
    vessel_release: Tensor | None = None,
) -> PoolCoefficients:
    """Coefficients of every pool of a formulation.

    Args:
        model: of the tissue.
        J_v: filtration, ``(x, y, z)``, 1/s.
        J_L: lymphatic drainage, ``(x, y, z)``, 1/s.
        detail: which pools there are.
        release: release rate of the carrier in tissue, ``(x, y, z)``, 1/s; by the model's law of pH
            if None.
        vessel_release: release rate that heat adds in microvessels, ``(x, y, z)``, 1/s. The leak at
            body temperature is in the plasma curves.
    """
    if detail.carrier and release is None:
        release = model.release_rate()
    conditions = PoolConditions(J_v, J_L, detail, release, vessel_release)
    pools = PoolAssembler(detail.pools, model.maps.phi)
    for name in detail.pools:
        DRUG_POOLS[name].add(pools, model, conditions)
    return pools.coefficients()


def volume_fractions(pools: tuple[str, ...], maps: TissueMaps) -> Tensor:
    """Volume fraction to which the concentration of each pool refers, ``(pool, x, y, z)``.

    Args:
        pools: names of pools.
        maps: of the tissue.

    Returns:
        The factors that convert concentrations of pools to drug per tissue volume.
    """
    fractions = {
        "interstitium": maps.phi,
        "tissue": torch.ones_like(maps.phi),
        "plasma": maps.plasma_fraction(),
    }
    return torch.stack([fractions[DRUG_POOLS[name].volume] for name in pools])


def _add_carrier(
    pools: PoolAssembler, model: TumourModel, conditions: PoolConditions, name: str, plasma: int
) -> None:
    """Transport, wall exchange, drainage and decay of a carrier in the interstitium."""
    phi = model.maps.phi
    PS, sigma = model.liposome_permeability()
    a, b = exchange_coefficients(PS, conditions.J_v, sigma)
    pools.set_capacity(name, phi)
    pools.add_transport(name, model.scalars["f_l"], phi * model.value("D_l_t"))
    pools.add_wall_exchange(
        name, plasma, a, b, f"vessel {name}" if conditions.options.vessels else None
    )
    pools.add_loss(name, conditions.J_L + phi * model.value("k_d_lip"))


def _add_encapsulated(pools: PoolAssembler, model: TumourModel, conditions: PoolConditions) -> None:
    assert conditions.release is not None
    _add_carrier(pools, model, conditions, "encapsulated", ENCAPSULATED)
    pools.add_transfer("encapsulated", "free", model.maps.phi * conditions.release)


def _add_retained(pools: PoolAssembler, model: TumourModel, conditions: PoolConditions) -> None:
    _add_carrier(pools, model, conditions, "retained", RETAINED)


def _add_free(pools: PoolAssembler, model: TumourModel, conditions: PoolConditions) -> None:
    phi, vessels = model.maps.phi, conditions.options.vessels
    PS = model.permeability(model.value("P_f_t"), model.value("P_f_n"))
    a, b = exchange_coefficients(PS, conditions.J_v, model.value("sigma_f"))
    # the plasma curve is of unbound drug, the local plasma pool of all free drug
    influx = a * (1 - model.value("fb")) if vessels else a
    D_f = model.select_by_tissue(model.value("D_f_t"), model.value("D_f_n"))
    pools.set_capacity("free", phi)
    pools.add_transport("free", 1.0, phi * D_f)
    pools.add_wall_exchange("free", UNBOUND, influx, b, "vessel free" if vessels else None)
    pools.add_loss("free", conditions.J_L)


def _add_bound(pools: PoolAssembler, model: TumourModel, conditions: PoolConditions) -> None:
    phi, fb, vessels = model.maps.phi, model.value("fb"), conditions.options.vessels
    PS = model.permeability(model.value("P_b_t"), model.value("P_b_n"))
    sigma = model.select_by_tissue(model.value("sigmaT_t"), model.value("sigmaT_n"))
    a, b = exchange_coefficients(PS, conditions.J_v, sigma)
    influx = a * (fb if vessels else fb / (1 - fb))
    pools.set_capacity("bound", phi)
    pools.add_transport("bound", 1.0, phi * model.value("D_b_t"))
    pools.add_wall_exchange("bound", UNBOUND, influx, b, "vessel free" if vessels else None)
    pools.add_loss("bound", conditions.J_L)
    pools.add_transfer("free", "bound", phi * model.value("k_a"))
    pools.add_transfer("bound", "free", phi * model.value("k_d"))


def _add_intracellular(
    pools: PoolAssembler, model: TumourModel, conditions: PoolConditions
) -> None:
    values = model.parameter_values()
    uptake = model.select_by_tissue(uptake_rate(model.maps.pH, values), 0.0)
    efflux = efflux_rate(values)
    if conditions.options.saturable:
        K_out, K_in = model.value("K_e"), model.value("rho_c") / CELLS_PER_UNIT * model.value("K_i")
        pools.add_saturable_transfer("free", "intracellular", uptake, efflux, K_out, K_in)
    else:
        pools.add_transfer("free", "intracellular", uptake)
        pools.add_transfer("intracellular", "free", efflux)


def _add_nuclear(pools: PoolAssembler, model: TumourModel, conditions: PoolConditions) -> None:
    pools.add_transfer("intracellular", "nuclear", model.scalars["k_on_DNA"])
    pools.add_transfer("nuclear", "intracellular", model.value("k_off_DNA"))


def _add_vessel(
    pools: PoolAssembler, model: TumourModel, name: str, plasma: int, factor: float | Tensor
) -> None:
    """A plasma pool of the microvessels, fed at the rate v_p/tau_c by a plasma curve."""
    v_p = model.maps.plasma_fraction()
    flow = v_p / model.value("tau_c")
    pools.set_capacity(name, v_p)
    pools.add_plasma_source(name, plasma, flow * factor)
    pools.add_loss(name, flow)


def _add_vessel_encapsulated(
    pools: PoolAssembler, model: TumourModel, conditions: PoolConditions
) -> None:
    _add_vessel(pools, model, "vessel encapsulated", ENCAPSULATED, 1.0)
    if conditions.vessel_release is not None:
        release = model.maps.plasma_fraction() * conditions.vessel_release
        pools.add_transfer("vessel encapsulated", "vessel free", release)


def _add_vessel_free(pools: PoolAssembler, model: TumourModel, conditions: PoolConditions) -> None:
    # the plasma curve is of unbound drug
    _add_vessel(pools, model, "vessel free", UNBOUND, 1 / (1 - model.value("fb")))


def _add_vessel_retained(
    pools: PoolAssembler, model: TumourModel, conditions: PoolConditions
) -> None:
    _add_vessel(pools, model, "vessel retained", RETAINED, 1.0)


#: Every pool, in the order of results.
DRUG_POOLS: dict[str, DrugPool] = {
    pool.name: pool
    for pool in (
        DrugPool(
            "encapsulated",
            "drug inside carriers in the interstitium",
            "interstitium",
            True,
            lambda o: o.carrier,
            _add_encapsulated,
        ),
        DrugPool(
            "free",
            "free drug in the interstitium",
            "interstitium",
            False,
            lambda o: True,
            _add_free,
        ),
        DrugPool(
            "bound",
            "drug on albumin in the interstitium",
            "interstitium",
            False,
            lambda o: o.bound,
            _add_bound,
        ),
        DrugPool(
            "intracellular",
            "drug in cells, outside their nuclei",
            "tissue",
            False,
            lambda o: True,
            _add_intracellular,
        ),
        DrugPool("nuclear", "drug bound in nuclei", "tissue", False, lambda o: True, _add_nuclear),
        DrugPool(
            "retained",
            "drug in the interstitium inside carriers that never release",
            "interstitium",
            True,
            lambda o: o.retained,
            _add_retained,
        ),
        DrugPool(
            "vessel encapsulated",
            "drug inside carriers in the tissue's microvessels",
            "plasma",
            True,
            lambda o: o.vessels and o.carrier,
            _add_vessel_encapsulated,
        ),
        DrugPool(
            "vessel free",
            "free and albumin-bound drug in the tissue's microvessels",
            "plasma",
            False,
            lambda o: o.vessels,
            _add_vessel_free,
        ),
        DrugPool(
            "vessel retained",
            "drug in microvessels inside carriers that never release",
            "plasma",
            True,
            lambda o: o.vessels and o.retained,
            _add_vessel_retained,
        ),
    )
}
#: Pools of drug in cells.
CELLULAR_POOLS = frozenset(n for n, pool in DRUG_POOLS.items() if pool.volume == "tissue")


def drug_detail_for(carrier: Formulation | None) -> DrugPoolOptions:
    """Options with every pool of a carrier: saturable uptake, albumin binding and microvessels."""
    retained = carrier is not None and carrier.releasable_share < 1
    return DrugPoolOptions(
        carrier=carrier is not None, retained=retained, bound=True, saturable=True, vessels=True
    )


def plasma_inputs(plasma: PlasmaDrug, detail: DrugPoolOptions) -> tuple[PlasmaInput, ...]:
    """Plasma curves that feed the pools, in the order of their inputs."""
    always = (plasma.releasable(), plasma.unbound())
    return (*always, plasma.retained()) if detail.retained else always


def carrier_pool_coefficients(
    model: TumourModel,
    J_v: Tensor,
    J_L: Tensor,
    detail: DrugPoolOptions,
    carrier: Formulation | None,
    temperature: Tensor | None,
    values: Values,
    release_segment: int = 0,
) -> PoolCoefficients:
    """Coefficients of all drug pools at a temperature.

    Args:
        model: of the tissue.
        J_v: filtration, 1/s, on the grid of the model.
        J_L: lymphatic drainage, 1/s.
        detail: which pools there are.
        carrier: the encapsulated formulation, if there is one.
        temperature: K, if heat releases the drug; None: that of the body.
        values: parameters by symbol, in place of the table's.
        release_segment: time segment of the release multiplier.
    """
    if carrier is None:
        return drug_pools(model, J_v, J_L, detail)
    excess = (
        None
        if temperature is None
        else carrier.heat_release_excess(temperature, {**values, **model.scalars})
    )
    release = model.release_rate(carrier, temperature, release_segment)
    return drug_pools(model, J_v, J_L, detail, release, excess)
