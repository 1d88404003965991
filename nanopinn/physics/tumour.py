"""The one tumour model: it assembles the coefficients, fluxes and sources that every solver reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nanopinn.parameters import value
from nanopinn.parameters.model_scalars import (
    INFLOW,
    MULTIPLIERS,
    RELEASE_LAW,
    SCALARS,
    default_scalars,
    is_release_multiplier,
    release_multiplier_name,
)
from nanopinn.parameters.table import Number, Values, parameter_lookup
from nanopinn.physics.flow import (
    FlowCoefficients,
    exchange_coefficients,
    filtration_rate,
    lymphatic_drainage,
)
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.formulation_library import PH_SENSITIVE
from nanopinn.physics.pools import PoolAssembler, PoolCoefficients
from nanopinn.physics.tissue_maps import TissueMaps


@dataclass(frozen=True)
class TumourModel:
    """Tissue maps and scalars, from which every coefficient follows; ``print`` shows its equations
    and their numbers.

    The flow is written with ``l = sqrt(K/(Lp S/V))`` and ``q = Lp S/V p_e``, which images can know,
    and with p_e, which they cannot. Normal tissue is given by its ratios to the tumour, so that the
    scaling (K, Lp, p_e) -> (a K, a Lp, p_e/a) stays exact.
    """

    maps: TissueMaps
    scalars: Mapping[str, Tensor]
    factors: Mapping[str, Number] = field(default_factory=dict)
    values: Values = field(default_factory=dict)

    @classmethod
    def from_maps(
        cls,
        maps: TissueMaps,
        scalars: Mapping[str, float | Tensor] | None = None,
        factors: Mapping[str, Number] | None = None,
        values: Values | None = None,
    ) -> TumourModel:
        """A model with table values for every scalar not given.

        Args:
            factors: on the tumour's ``p_e``, ``Lp``, ``K``, ``P`` (permeability of the wall to
                every solute), ``P_l`` (to the carrier alone) and ``SV``, as radiation and heat
                change them (see :mod:`nanopinn.physics.radiation` and
                :mod:`nanopinn.physics.heat`); 1 where absent.
            values: of parameters by symbol, where they differ from the table's.
        """
        merged = {**default_scalars(), **(scalars or {})}
        unknown = set(merged) - set(SCALARS) - set(MULTIPLIERS) - {RELEASE_LAW, INFLOW}
        unknown -= {name for name in unknown if is_release_multiplier(name)}
        if unknown:
            raise KeyError(f"not scalars of the model: {', '.join(sorted(unknown))}")
        like = maps.phi
        return cls(
            maps,
            {
                k: torch.as_tensor(v, dtype=like.dtype, device=like.device)
                for k, v in merged.items()
            },
            factors or {},
            values or {},
        )

    def value(self, symbol: str) -> Number:
        """A parameter: the one given, else the table's."""
        return parameter_lookup(self.values)(symbol)

    def select_by_tissue(self, tumour: Tensor | float, normal: Tensor | float) -> Tensor:
        """One value in the tumour, another in normal tissue, ``(x, y, z)``."""
        # two plain numbers would give single precision
        inside, outside = (
            torch.as_tensor(v, dtype=self.maps.phi.dtype, device=self.maps.phi.device)
            for v in (tumour, normal)
        )
        return torch.where(self.maps.tumour > 0.5, inside, outside)

    def factor(self, *properties: str) -> Number:
        """Product of the factors on some of the tumour's properties."""
        return math.prod(self.factors.get(p, 1.0) for p in properties)

    def multiplier(self, name: str) -> Tensor | float:
        """What a property is multiplied by in space, ``exp(w . shapes)``, ``(x, y, z)``; 1 where
        nothing is said of it.
        """
        if name not in self.scalars:
            return 1.0
        return torch.exp(torch.einsum("k,kxyz->xyz", self.scalars[name], self.maps.shapes[name]))

    def flow_coefficients(self) -> FlowCoefficients:
        """Darcy-Starling flow; filtration scales with the vascularity inside the tumour."""
        s = self.scalars
        LpSV = s["q"] / s["p_e"]
        K = s["l"] ** 2 * LpSV
        return FlowCoefficients(
            K=self.select_by_tissue(self.factor("K") * K, s["K_ratio_n"] * K)
            * self.multiplier("conductivity"),
            LpSV=LpSV
            * self.multiplier("filtration")
            * self.select_by_tissue(
                self.factor("Lp", "SV") * self.maps.vascularity(), value("LpSV_n") / value("LpSV_t")
            ),
            p_e=s["p_e"] * self.select_by_tissue(self.factor("p_e"), value("p_e_n") / value("p_e")),
            LpLSL=LpSV * self.select_by_tissue(0.0, value("LpLSL_n") / value("LpSV_t")),
            p_L=value("p_L"),
            p_inf=value("p_inf"),
            cut=self.maps.cut,
            inflow=self.inflow_velocity(),
        )

    def inflow_velocity(self) -> Tensor | None:
        """Velocity into the box through its cut faces, ``q l w . shapes``, m/s, at the cells there;
        None where it is no unknown.
        """
        s = self.scalars
        if INFLOW not in s:
            return None
        return s["q"] * s["l"] * torch.einsum("k,kxyz->xyz", s[INFLOW], self.maps.shapes[INFLOW])

    def filtration_and_drainage(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Filtration J_v and lymphatic drainage J_L at a pressure, 1/s."""
        flow = self.flow_coefficients()
        return filtration_rate(flow.LpSV, flow.p_e, p), lymphatic_drainage(flow.LpLSL, p, flow.p_L)

    def contrast_agent_pools(self, J_v: Tensor, J_L: Tensor) -> PoolCoefficients:
        """The contrast agent, one pool, one input (its plasma curve)."""
        a, b = exchange_coefficients(
            self.maps.PS * self.select_by_tissue(self.factor("P", "SV"), 1.0),
            J_v,
            self.value("sigma_Gd"),
        )
        phi = self.maps.phi
        pools = PoolAssembler(("contrast",), phi)
        pools.set_capacity("contrast", phi)
        pools.add_transport("contrast", 1.0, phi * self.value("D_Gd"))
        pools.add_wall_exchange("contrast", 0, a, b)
        pools.add_loss("contrast", J_L)
        return pools.coefficients()

    def release_rate(
        self,
        carrier: Formulation = PH_SENSITIVE,
        T_K: Tensor | None = None,
        segment: int = 0,
    ) -> Tensor:
        """Release rate of a carrier in tissue, 1/s.

            k = k_rel(pH, T) exp(w . shapes) m_segment

        The warp of pH and the multipliers in space and time were fitted to a carrier that acid
        triggers; they apply only to such carriers.

        Args:
            carrier: the formulation; by default the one whose law the scalars describe.
            T_K: temperature, ``(x, y, z)``, K; that of the body if None.
            segment: time segment of the release multiplier.
        """
        pH = self.maps.pH
        T_K = pH.new_tensor(value("T_body")) if T_K is None else T_K
        values = {**self.values, **self.scalars}
        if not carrier.responds_to_acid:
            return carrier.release_rate(pH, T_K, values)
        rate = carrier.release_rate(pH, T_K, values, ph_warp=self.scalars.get(RELEASE_LAW))
        in_time = self.scalars.get(release_multiplier_name(segment), 1.0)
        return rate * self.multiplier("release") * in_time

    def liposome_permeability(self) -> tuple[Tensor, Tensor]:
        """PS/V (1/s) and reflection coefficient of the carrier; the tumour's PS follows the
        vascularity.
        """
        normal = self.value("P_l_n") * self.value("SV_n")
        PS = self.select_by_tissue(
            self.scalars["PS_l"] * self.factor("P", "P_l", "SV") * self.maps.vascularity(), normal
        )
        return PS * self.multiplier("permeability"), self.select_by_tissue(
            1 - self.scalars["leak_l"], self.value("sigma_l_n")
        )

    def permeability(self, P_t: Number, P_n: Number) -> Tensor:
        """PS/V, 1/s, of a solute with wall permeability P (m/s) in tumour and normal tissue; the
        tumour's follows the vascularity.
        """
        return self.select_by_tissue(
            P_t * self.value("SV_t") * self.factor("P", "SV") * self.maps.vascularity(),
            P_n * self.value("SV_n"),
        )
