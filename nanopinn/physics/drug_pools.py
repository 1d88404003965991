"""Encapsulated, free, bound and cellular drug: every pool of a formulation and what passes between
them.

    phi dL/dt  + div(f_l u L) = div(phi D_l grad L) + Phi_l - phi (k_rel + k_dl) L
    phi dF/dt  + div(u F)     = div(phi D_f grad F) + Phi_f + phi k_rel L - phi (k_a F - k_d B) - z
    phi dB/dt  + div(u B)     = div(phi D_b grad B) + Phi_b + phi (k_a F - k_d B)
    dI/dt = z - k_on I + k_off N,    dN/dt = k_on I - k_off N
    Phi_j = a_j C_jv - b_j C_j - J_L C_j                                (see physics.wall)
    v_p dC_lv/dt = Q (C_l - C_lv) - v_p k_T C_lv - a_l C_lv + b_l L     (microvessels, transit time
    v_p/Q) v_p dC_fv/dt = Q (C_f - C_fv) + v_p k_T C_lv - Phi_f - Phi_b

L, F and B per interstitial volume (phi), I and N per tissue volume, the microvessels' pools per
plasma volume. C_l, C_f: plasma of the large vessels. Albumin binds the share ``fb`` of the drug in
plasma, at equilibrium there. A carrier of which only a share releases is two carriers: ``retained``
holds what never leaves its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nanopinn.physics.cell_kill import CELLS_PER_UNIT, efflux_rate, uptake_rate
from nanopinn.physics.flow import exchange_coefficients
from nanopinn.physics.pools import PoolAssembler, PoolCoefficients
from nanopinn.physics.tumour import TissueMaps, TumourModel

#: Plasma curves that feed the pools: encapsulated drug that can be released, unbound free drug,
#: encapsulated that cannot.
ENCAPSULATED, UNBOUND, RETAINED = 0, 1, 2


#: What each pool is, for the reader.
POOL_DESCRIPTIONS = {
    "encapsulated": "drug inside carriers in the interstitium",
    "free": "free drug in the interstitium",
    "bound": "drug on albumin in the interstitium",
    "intracellular": "drug in cells, outside their nuclei",
    "nuclear": "drug bound in nuclei",
    "retained": "drug in the interstitium inside carriers that never release",
    "vessel encapsulated": "drug inside carriers in the tissue's microvessels",
    "vessel free": "free and albumin-bound drug in the tissue's microvessels",
    "vessel retained": "drug in microvessels inside carriers that never release",
}
CELLULAR_POOLS = frozenset({"intracellular", "nuclear"})


@dataclass(frozen=True)
class DrugPoolOptions:
    """Which pools are solved beside free, intracellular and nuclear drug.

    Attributes:
        carrier: encapsulated drug. retained: encapsulated drug that is never released.
        bound: drug on albumin in the interstitium. saturable: transport into cells that saturates,
            not its linear range.
        vessels: a local plasma pool, in which hot carriers release on the way through.
    """

    carrier: bool = True
    retained: bool = False
    bound: bool = False
    saturable: bool = False
    vessels: bool = False

    @property
    def pools(self) -> tuple[str, ...]:
        """Names of the pools, in order."""
        wanted = {
            "encapsulated": self.carrier,
            "free": True,
            "bound": self.bound,
            "intracellular": True,
            "nuclear": True,
            "retained": self.retained,
            "vessel encapsulated": self.vessels and self.carrier,
            "vessel free": self.vessels,
            "vessel retained": self.vessels and self.retained,
        }
        return tuple(name for name, there in wanted.items() if there)


def volume_fractions(pools: tuple[str, ...], maps: TissueMaps) -> Tensor:
    """What makes concentrations of pools ones per tissue volume, ``(pool, x, y, z)``."""
    one, plasma = torch.ones_like(maps.phi), maps.v_p.clamp_min(1e-3)
    return torch.stack(
        [
            plasma if name.startswith("vessel") else one if name in CELLULAR_POOLS else maps.phi
            for name in pools
        ]
    )


#: What images of one or two days without heat can know of: linear, so that fits are exact.
LINEAR_POOLS = DrugPoolOptions(bound=True)
#: Everything.
FULL_POOLS = DrugPoolOptions(bound=True, saturable=True, vessels=True)


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
        J_v, J_L: filtration and lymphatic drainage, ``(x, y, z)``, 1/s.
        release: of carriers in tissue, ``(x, y, z)``, 1/s; the model's law of pH if None.
        vessel_release: what heat adds in microvessels, ``(x, y, z)``, 1/s; the leak at body
            temperature is in the plasma curves.
    """
    pools = PoolAssembler(detail.pools, model.maps.phi)
    if detail.carrier:
        _add_carrier_pool(pools, model, J_v, J_L, "encapsulated", ENCAPSULATED, detail)
        pools.add_transfer(
            "encapsulated",
            "free",
            model.maps.phi * (model.release_rate() if release is None else release),
        )
    if detail.retained:
        _add_carrier_pool(pools, model, J_v, J_L, "retained", RETAINED, detail)
    _add_free_pool(pools, model, J_v, J_L, detail)
    if detail.bound:
        _add_bound_pool(pools, model, J_v, J_L, detail)
    _add_cell_pools(pools, model, saturable=detail.saturable)
    if detail.vessels:
        _add_vessel_pools(pools, model, detail, vessel_release)
    return pools.coefficients()


def _add_carrier_pool(
    pools: PoolAssembler,
    model: TumourModel,
    J_v: Tensor,
    J_L: Tensor,
    name: str,
    plasma: int,
    detail: DrugPoolOptions,
) -> None:
    phi = model.maps.phi
    PS, sigma = model.liposome_permeability()
    a, b = exchange_coefficients(PS, J_v, sigma)
    pools.set_capacity(name, phi)
    pools.add_transport(name, model.scalars["f_l"], phi * model.value("D_l_t"))
    pools.add_wall_exchange(name, plasma, a, b, f"vessel {name}" if detail.vessels else None)
    pools.add_loss(name, J_L + phi * model.value("k_d_lip"))


def _add_free_pool(
    pools: PoolAssembler, model: TumourModel, J_v: Tensor, J_L: Tensor, detail: DrugPoolOptions
) -> None:
    phi = model.maps.phi
    a, b = exchange_coefficients(
        model.permeability(model.value("P_f_t"), model.value("P_f_n")), J_v, model.value("sigma_f")
    )
    pools.set_capacity("free", phi)
    pools.add_transport(
        "free", 1.0, phi * model.select_by_tissue(model.value("D_f_t"), model.value("D_f_n"))
    )
    # the plasma curve is of unbound drug, the local pool of all
    pools.add_wall_exchange(
        "free",
        UNBOUND,
        a * (1 - model.value("fb")) if detail.vessels else a,
        b,
        "vessel free" if detail.vessels else None,
    )
    pools.add_loss("free", J_L)


def _add_bound_pool(
    pools: PoolAssembler, model: TumourModel, J_v: Tensor, J_L: Tensor, detail: DrugPoolOptions
) -> None:
    phi, fb = model.maps.phi, model.value("fb")
    a, b = exchange_coefficients(
        model.permeability(model.value("P_b_t"), model.value("P_b_n")),
        J_v,
        model.select_by_tissue(model.value("sigmaT_t"), model.value("sigmaT_n")),
    )
    pools.set_capacity("bound", phi)
    pools.add_transport("bound", 1.0, phi * model.value("D_b_t"))
    pools.add_wall_exchange(
        "bound",
        UNBOUND,
        a * (fb if detail.vessels else fb / (1 - fb)),
        b,
        "vessel free" if detail.vessels else None,
    )
    pools.add_loss("bound", J_L)
    pools.add_transfer("free", "bound", phi * model.value("k_a"))
    pools.add_transfer("bound", "free", phi * model.value("k_d"))


def _add_cell_pools(pools: PoolAssembler, model: TumourModel, *, saturable: bool) -> None:
    uptake, efflux = (
        model.select_by_tissue(uptake_rate(model.maps.pH, model.values), 0.0),
        efflux_rate(model.values),
    )
    if saturable:
        K_in = model.value("rho_c") / CELLS_PER_UNIT * model.value("K_i")
        pools.add_saturable_transfer(
            "free", "intracellular", uptake, efflux, model.value("K_e"), K_in
        )
    else:
        pools.add_transfer("free", "intracellular", uptake)
        pools.add_transfer("intracellular", "free", efflux)
    pools.add_transfer("intracellular", "nuclear", model.scalars["k_on_DNA"])
    pools.add_transfer("nuclear", "intracellular", model.value("k_off_DNA"))


def _add_vessel_pools(
    pools: PoolAssembler, model: TumourModel, detail: DrugPoolOptions, release: Tensor | None
) -> None:
    v_p = model.plasma_volume()
    flow = v_p / model.value("tau_c")
    whole = 1 / (1 - model.value("fb"))
    fed = {
        "vessel free": (UNBOUND, whole),
        "vessel encapsulated": (ENCAPSULATED, 1.0),
        "vessel retained": (RETAINED, 1.0),
    }
    for name, (plasma, factor) in fed.items():
        if name in detail.pools:
            pools.set_capacity(name, v_p)
            pools.add_plasma_source(name, plasma, flow * factor)
            pools.add_loss(name, flow)
    if detail.carrier and release is not None:
        pools.add_transfer("vessel encapsulated", "vessel free", v_p * release)
