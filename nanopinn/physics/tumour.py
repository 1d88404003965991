"""The tumour model: coefficients of flow, exchange and release from maps and scalars."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nanopinn.parameters import (
    INFLOW,
    MULTIPLIERS,
    RELEASE_LAW,
    SCALARS,
    Number,
    Values,
    default_scalars,
    is_release_multiplier,
    multipliers_of,
    parameter_lookup,
    release_multiplier_name,
    value,
)
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
    """Tissue maps and scalars, from which all coefficients of flow, exchange and release follow.

    The flow is parametrised by the hydraulic length ``l = sqrt(K/(Lp S/V))`` and the maximum
    filtration rate ``q = Lp S/V p_e``, which images identify, and by p_e, which they do not.
    Normal tissue is given by its ratios to the tumour, so that the scaling (K, Lp, p_e) ->
    (a K, a Lp, p_e/a) stays exact.

    Attributes:
        maps: of the tissue.
        scalars: by name (:data:`nanopinn.parameters.unknown_registry.SCALARS`), SI, and the
            weights of multipliers in space.
        factors: on properties of the tumour's vessels and tissue, 1 where absent.
        values: of parameters by symbol, in place of the table's.
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
        """Build a model with table values for every scalar that is not given.

        Args:
            maps: of the tissue.
            scalars: by name, SI.
            factors: on the tumour's ``p_e``, ``Lp``, ``K``, ``P`` (permeability of the wall to
                every solute), ``P_l`` (to the carrier alone) and ``SV``, as radiation and heat
                change them (:mod:`nanopinn.physics.treatment`, :mod:`nanopinn.physics.heat`).
            values: of parameters by symbol, in place of the table's.

        Raises:
            KeyError: a scalar is unknown.
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
        """Value of a parameter, the model's own or the table's, times its scalar multipliers.

        Args:
            symbol: of the parameter.
        """
        factors = [self.scalars[name] for name in multipliers_of(symbol)]
        return math.prod(factors, start=parameter_lookup(self.values)(symbol))

    def parameter_values(self) -> Values:
        """Values of parameters in place of the table's, by symbol, scalar multipliers applied."""
        multiplied = [s.multiplies for s in SCALARS.values() if s.multiplies is not None]
        return {**self.values, **{symbol: self.value(symbol) for symbol in multiplied}}

    def select_by_tissue(self, tumour: Tensor | float, normal: Tensor | float) -> Tensor:
        """Map with one value in the tumour and another in normal tissue.

        Args:
            tumour: value in the tumour, a number or ``(x, y, z)``.
            normal: value in normal tissue, a number or ``(x, y, z)``.
        """
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
        """Multiplier of a property in space, ``exp(w . shapes)``, ``(x, y, z)``.

        It is 1 if the model has no scalar of that name.

        Args:
            name: one of :data:`nanopinn.parameters.unknown_registry.MULTIPLIERS`.
        """
        if name not in self.scalars:
            return 1.0
        return torch.exp(torch.einsum("k,kxyz->xyz", self.scalars[name], self.maps.shapes[name]))

    def flow_coefficients(self) -> FlowCoefficients:
        """Coefficients of the Darcy-Starling flow.

        Filtration is proportional to the vascularity inside the tumour.
        """
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
        """Velocity into the box through its cut faces, ``q l w . shapes``, m/s, at the cells there.

        Returns:
            ``(x, y, z)``, or None if the inflow is no scalar of the model.
        """
        s = self.scalars
        if INFLOW not in s:
            return None
        return s["q"] * s["l"] * torch.einsum("k,kxyz->xyz", s[INFLOW], self.maps.shapes[INFLOW])

    def filtration_and_drainage(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Filtration J_v and lymphatic drainage J_L at a pressure.

        Args:
            p: interstitial pressure, ``(x, y, z)``, Pa.

        Returns:
            Both ``(x, y, z)``, 1/s.
        """
        flow = self.flow_coefficients()
        return filtration_rate(flow.LpSV, flow.p_e, p), lymphatic_drainage(flow.LpLSL, p, flow.p_L)

    def contrast_agent_pools(self, J_v: Tensor, J_L: Tensor) -> PoolCoefficients:
        """Coefficients of the contrast agent: one pool, one input (its plasma curve).

        Args:
            J_v: filtration, ``(x, y, z)``, 1/s.
            J_L: lymphatic drainage, ``(x, y, z)``, 1/s.
        """
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
        triggers; they apply only to such carriers. The leak of other carriers is multiplied by
        its own scalar, 1 unless it was fitted.

        Args:
            carrier: the formulation; by default the one whose law the scalars describe.
            T_K: temperature, ``(x, y, z)``, K; that of the body if None.
            segment: time segment of the release multiplier.
        """
        pH = self.maps.pH
        T_K = pH.new_tensor(value("T_body")) if T_K is None else T_K
        values = {**self.parameter_values(), **self.scalars}
        if not carrier.responds_to_acid:
            assert carrier.leak is not None
            leak = parameter_lookup(carrier.with_own_values(values))(carrier.leak)
            values[carrier.leak] = leak * self.scalars["leak_factor"]
            return carrier.release_rate(pH, T_K, values)
        rate = carrier.release_rate(pH, T_K, values, ph_warp=self.scalars.get(RELEASE_LAW))
        in_time = self.scalars.get(release_multiplier_name(segment), 1.0)
        return rate * self.multiplier("release") * in_time

    def liposome_permeability(self) -> tuple[Tensor, Tensor]:
        """PS/V and reflection coefficient of the carrier.

        The PS of the tumour is proportional to the vascularity.

        Returns:
            PS/V in 1/s and the reflection coefficient, both ``(x, y, z)``.
        """
        normal = self.value("P_l_n") * self.value("SV_n")
        PS = self.select_by_tissue(
            self.scalars["PS_l"] * self.factor("P", "P_l", "SV") * self.maps.vascularity(), normal
        )
        return PS * self.multiplier("permeability"), self.select_by_tissue(
            1 - self.scalars["leak_l"], self.value("sigma_l_n")
        )

    def permeability(self, P_t: Number, P_n: Number) -> Tensor:
        """PS/V of a solute, ``(x, y, z)``, 1/s; proportional to the vascularity in the tumour.

        Args:
            P_t: permeability of the vessel wall in the tumour, m/s.
            P_n: permeability of the vessel wall in normal tissue, m/s.
        """
        return self.select_by_tissue(
            P_t * self.value("SV_t") * self.factor("P", "SV") * self.maps.vascularity(),
            P_n * self.value("SV_n"),
        )
