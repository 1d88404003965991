"""What really happens in the phantom: fields on the fine grid, by another time scheme than fits use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from nanopinn.imaging.aif.curve import PlasmaCurve
from nanopinn.parameters import value
from nanopinn.physics.drug import LINEAR_POOLS, volume_fractions
from nanopinn.physics.formulation import PH_SENSITIVE
from nanopinn.physics.model import TissueMaps, TumourModel, default_scalars
from nanopinn.physics.wall import exchange_coefficients
from nanopinn.solvers.domain import Domain
from nanopinn.solvers.forward import ForwardModel, Setting
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.nodes import drug_nodes
from nanopinn.solvers.schemes import SDIRK3
from nanopinn.workflows.phantom.anatomy import Anatomy

Array = NDArray[np.float64]

#: Spread (natural log) with which a phantom's scalars are drawn around their table values.
SCALAR_LOG_SD = {
    "q": 0.35,
    "p_e": 0.2,
    "K_ratio_n": 0.2,
    "PS_l": 0.5,
    "leak_l": 0.2,
    "f_l": 0.15,
    "krel_ref": 0.5,
    "k_on_DNA": 0.3,
}


#: Relative residual of the linear solves: far below the error of the grid.
LINEAR_TOLERANCE = 1e-8


@dataclass(frozen=True)
class Truth:
    """True scalars (SI) and fields on the fine grid of the field of view.

    Attributes:
        contrast: ``(t, x, y, z)`` mM in tissue at the frames.
        drug: pool -> ``(t, x, y, z)`` kg per m3 of tissue at ``drug_times_s``.
        plasma_drug: encapsulated drug in plasma at ``drug_times_s``, kg/m3.
        pressure: Pa. velocity: ``(3, x, y, z)`` m/s.
        Ktrans: influx per plasma concentration, diffusion and solvent drag together, 1/s.
    """

    scalars: Mapping[str, float]
    contrast: Array
    drug: Mapping[str, Array]
    drug_times_s: Array
    plasma_drug: Array
    pressure: Array
    velocity: Array
    Ktrans: Array
    release_rate: Array


def draw_scalars(rng: np.random.Generator, length_scale_m: float | None) -> dict[str, float]:
    """Scalars of one phantom, SI."""
    scalars = default_scalars()
    for name, spread in SCALAR_LOG_SD.items():
        scalars[name] *= float(np.exp(spread * rng.standard_normal()))
    scalars["pK_rel"] += 0.15 * float(rng.standard_normal())
    drawn = float(np.exp(0.3 * rng.standard_normal())) * 0.8e-3
    scalars["l"] = drawn if length_scale_m is None else length_scale_m
    return scalars


def solve_truth(
    anatomy: Anatomy,
    spacing_m: tuple[float, float, float],
    scalars: Mapping[str, float],
    aif: PlasmaCurve,
    frame_times: Array,
    drug_times: Array,
    pore_error: float = 0.0,
    factors: Mapping[str, float] | None = None,
) -> Truth:
    """Solve every field of the phantom on the grid of its anatomy, in a box with a wide normal margin.

    Args:
        pore_error: the contrast agent fills so much more of the tissue (relative) than the pores that carry drug.
        factors: on the tumour's properties, as :class:`TumourModel` takes them.
    """
    domain = Domain.around(anatomy.tumour, spacing_m, margin_m=3.0e-3)
    maps = TissueMaps(
        tumour=torch.as_tensor(domain.take(anatomy.tumour.astype(float), 0.0)),
        PS=torch.as_tensor(domain.take(anatomy.PS, value("Ktrans_n"))),
        phi=torch.as_tensor(domain.take(anatomy.phi, value("ve_n"))),
        v_p=torch.as_tensor(domain.take(anatomy.v_p, value("vp_n"))),
        pH=torch.as_tensor(domain.take(anatomy.pH, value("pHe_n"))),
        shapes={
            name: torch.as_tensor(domain.take(f, 0.0))[None] for name, f in anatomy.fields.items()
        },
    )
    setting = Setting(maps, Grid(domain.shape, spacing_m), flow_refine=1)
    none = torch.zeros(0, dtype=torch.float64)
    numbers = {k: torch.tensor(v, dtype=torch.float64) for k, v in scalars.items()}
    numbers |= {name: torch.ones(1, dtype=torch.float64) for name in anatomy.fields}
    forward = ForwardModel(setting, lambda _: numbers, factors=factors)
    flow = forward.flow(none)
    model: TumourModel = forward.model(none)
    contrast_setting = replace(setting, maps=replace(maps, phi=maps.phi * (1 + pore_error)))
    contrast, _, _ = ForwardModel(contrast_setting, lambda _: numbers, factors=factors).contrast(
        none, flow, aif, frame_times, SDIRK3, tol=LINEAR_TOLERANCE
    )
    plasma = PH_SENSITIVE.bolus_curves()
    nodes = drug_nodes(list(drug_times), first_step_s=40.0, growth=1.2, longest_s=3600.0)
    run = forward.drug(none, flow, plasma, nodes, SDIRK3, tol=LINEAR_TOLERANCE)
    keep = [int(np.argmin(np.abs(nodes - t))) for t in drug_times]
    per_tissue = volume_fractions(LINEAR_POOLS.pools, maps) * run.U[keep]
    Ktrans, _ = exchange_coefficients(
        maps.PS * model.select_by_tissue(model.factor("P", "SV"), 1.0), flow.J_v, value("sigma_Gd")
    )

    def on_image_grid(values: torch.Tensor, fill: float = np.nan) -> Array:
        return domain.put(values.numpy(), fill)

    return Truth(
        scalars=dict(scalars),
        contrast=on_image_grid(contrast),
        drug={name: on_image_grid(per_tissue[:, i]) for i, name in enumerate(LINEAR_POOLS.pools)},
        drug_times_s=np.asarray(drug_times),
        plasma_drug=plasma[0](torch.as_tensor(drug_times, dtype=torch.float64)).numpy(),
        pressure=on_image_grid(flow.p),
        velocity=on_image_grid(flow.velocity(setting.grid)),
        Ktrans=on_image_grid(Ktrans),
        release_rate=on_image_grid(model.release_rate()),
    )
