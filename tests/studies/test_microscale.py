"""The sub-voxel model: batched draws equal single draws, clusters average similar voxels, and
time segments resolve changes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nanopinn.parameters import default_scalars, value
from nanopinn.physics.drug_pools import FULL_POOLS, drug_pools
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.formulation_library import FREE, PEGYLATED, THERMOSENSITIVE
from nanopinn.physics.heat import scheduled_temperature
from nanopinn.physics.plasma import Dose, SampledPlasmaCurves
from nanopinn.physics.pools import PoolCoefficients
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.physics.treatment import GivenDose, Heating, RadiationCourse, Treatment
from nanopinn.physics.tumour import TumourModel
from nanopinn.solvers.clusters import build_sampled_cluster_model, cluster_pools
from nanopinn.solvers.krogh_exposure import Exposure
from nanopinn.solvers.krogh_geometry import MIN_RADIUS_RATIO
from nanopinn.solvers.krogh_treatment import MicroscaleModel, MicroscaleTimeline, solve_exposure
from nanopinn.solvers.time_partition import MICROSCALE_LIMITS

HOUR, HOT = 3600.0, 315.15
SHAPE = (4, 2, 2)
#: The first cluster has twice as many voxels as the others: means over clusters are not means over
#: voxels.
CLUSTER = torch.tensor([0, 0, 1, 2])
LABELS = CLUSTER[:, None, None].expand(SHAPE)
ONE = torch.ones(SHAPE, dtype=torch.float64)
#: Factors on medians, draw by draw; the first is the median.
DRAWN = {
    "tau_c": (1.0, 2.0, 0.5, 1.3),
    "R_c": (1.0, 0.8, 1.1, 1.2),
    "CL_dox": (1.0, 1.4, 0.7, 1.1),
    "k_TSL": (1.0, 0.8, 1.2, 0.9),
    "krel_TSL_hot": (1.0, 0.6, 1.5, 1.1),
    "Vmax": (1.0, 2.0, 0.6, 1.2),
    "K_i": (1.0, 0.7, 1.6, 1.1),
    "EC50_i": (1.0, 2.0, 0.5, 1.4),
    "rho_c": (1.0, 0.9, 1.2, 0.8),
    "spread_Rt": (1.0, 0.5, 1.6, 0.2),
    "P_f_t": (1.0, 0.5, 1.1, 0.8),
    "fb": (1.0, 1.1, 0.95, 1.0),
}


def tensor(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


FACTORS = {"P": tensor((1.0, 1.5, 0.8, 2.0))}


def tissue() -> TissueMaps:
    """Three clusters of voxels that are the same within each; beside a weight of a permeability in
    space.
    """
    rows = {
        "PS": (8e-4, 1.5e-3, 3e-3),
        "phi": (0.2, 0.3, 0.4),
        "v_p": (0.01, 0.03, 0.06),
        "pH": (6.6, 6.9, 7.2),
    }
    maps = {n: tensor(v)[CLUSTER, None, None].expand(SHAPE) for n, v in rows.items()}
    return TissueMaps(
        ONE,
        **maps,
        shapes={
            "permeability": tensor((0.5, 0.0, -1.0))[None, CLUSTER, None, None].expand(1, *SHAPE)
        },
    )


def drawn() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    values = {n: value(n) * tensor(v) for n, v in DRAWN.items()}
    values["T_m"] = value("T_m") + tensor((0.0, 0.5, -0.6, 0.2))
    scalars = {
        n: default_scalars()[n] * tensor(v)
        for n, v in {"PS_l": (1.0, 3.0, 0.5, 1.2), "k_on_DNA": (1.0, 0.3, 2.0, 4.0)}.items()
    }
    return {**scalars, "permeability": tensor((0.0, 0.4, -0.3, 0.8))[:, None]}, values


def under(
    rows: slice = slice(0, 4),
    factors: Mapping[str, Tensor] | None = None,
    ramp: float = 60.0,
    minutes: float = 30.0,
) -> MicroscaleModel:
    scalars, values = drawn()
    J_v = 2e-5 * tensor((1.0, 1.5, 0.5, 2.0))[:, None] * tensor((1.0, 0.6, 0.3))
    temperature = scheduled_temperature(ONE, HOT, 0.0, minutes * 60, ramp)
    moved = None if factors is None else lambda t: factors
    every = MicroscaleModel.from_arrays(
        tissue(),
        LABELS,
        4,
        scalars,
        values,
        lambda t: (J_v, 0.01 * J_v),
        relative_aif_scale=tensor((1.0, 0.9, 1.1, 1.0)),
        factors=moved,
        temperature=temperature,
        cells=12,
    )
    return every.select_draws(rows.start, rows.stop)


def treatment(
    formulation: Formulation = THERMOSENSITIVE,
    ramp: float = 60.0,
    end_h: float = 4.0,
    minutes: float = 30.0,
) -> Treatment:
    heat = (Heating(0.0, minutes * 60, ramp, "imposed", HOT, None),)
    doses = (
        GivenDose(formulation, Dose(0.0, 6e-5, 600.0)),
        GivenDose(FREE, Dose(min(2.0, end_h / 2) * HOUR, 3e-5)),
    )
    return Treatment(doses, heat, RadiationCourse(), (end_h / 4 * HOUR, end_h * HOUR), end_h * HOUR)


def tensors(pools: PoolCoefficients) -> list[Tensor]:
    walls = [t for w in pools.walls for t in (w.influx, w.efflux)]
    saturable = [
        torch.as_tensor(t, dtype=torch.float64)
        for k in pools.transfers
        for t in (k.uptake, k.efflux, k.K_out, k.K_in)
    ]
    return [
        pools.capacity,
        pools.mobility,
        pools.diffusion,
        *pools.reaction.values(),
        *pools.inflow.values(),
        *walls,
        *saturable,
    ]


def test_the_batched_model_equals_the_model_of_each_draw() -> None:
    """Voxels of a cluster are the same: the voxel model's pools, grouped, are those of the drawn
    clusters.
    """
    maps, (scalars, values) = tissue(), drawn()
    factors = {**FACTORS, "SV": tensor((1.0, 0.7, 1.1, 1.0))}
    J = tensor((1e-5, 2e-5, 5e-6))[:, None, None]
    together = build_sampled_cluster_model(
        maps, LABELS, scalars, values, factors, torch.ones(4, dtype=torch.float64)
    )
    all_pools = drug_pools(together, J.repeat(4, 1, 1), 0 * J.repeat(4, 1, 1), FULL_POOLS)
    for d in range(4):
        moved, altered, given = (
            {n: v[d] for n, v in of.items()} for of in (scalars, factors, values)
        )
        expected = cluster_pools(
            drug_pools(
                TumourModel.from_maps(maps, moved, altered, given),
                J[CLUSTER].expand(SHAPE),
                0 * ONE,
                FULL_POOLS,
            ),
            LABELS,
        )
        for a, b in zip(tensors(all_pools), tensors(expected), strict=True):
            rows = a[..., 3 * d : 3 * d + 3, :, :] if a.dim() >= 3 and a.shape[-3] == 12 else a
            torch.testing.assert_close(*torch.broadcast_tensors(rows, b), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("formulation", [FREE, PEGYLATED, THERMOSENSITIVE])
def test_batched_plasma_equals_the_plasma_of_each_draw(formulation: Formulation) -> None:
    """Through a bolus, an infusion and the time after both; read from the start of each stretch,
    end included.
    """
    values = drawn()[1]
    given = treatment(formulation)
    each = [given.plasma({n: float(v[d]) for n, v in values.items()}) for d in range(4)]
    for kind in ("releasable", "unbound", "retained"):
        curves = [getattr(p, kind)() for p in each]
        together = SampledPlasmaCurves.from_curves(curves, ONE)
        for start, t in (
            (0.0, 0.0),
            (0.0, 600.0),
            (600.0, 5000.0),
            (2 * HOUR, 2 * HOUR),
            (2 * HOUR, 9000.0),
        ):
            expected = torch.stack([c.smooth_piece_from(start)(tensor((t,)))[0] for c in curves])
            torch.testing.assert_close(
                together.smooth_piece_from(start)(t), expected, rtol=1e-12, atol=1e-18
            )


@pytest.fixture(scope="module")
def together() -> Exposure:
    return solve_exposure(under(factors=FACTORS, ramp=0.0), treatment(ramp=0.0))


def test_a_single_draw_equals_the_draw_in_its_batch(together: Exposure) -> None:
    """Only the steps are common to all draws: the difference is that of the tolerance."""
    for d in (0, 3):
        alone = solve_exposure(under(slice(d, d + 1), FACTORS, ramp=0.0), treatment(ramp=0.0))
        for name in ("free", "cells", "peak_intracellular", "auc_free"):
            a, b = getattr(alone, name)[0], getattr(together, name)[d]
            assert torch.equal(torch.isnan(a), torch.isnan(b)), name
            assert float((a - b).nan_to_num().norm() / b.nan_to_num().norm()) < 3e-3, name
        for law in together.killed:
            assert (
                float(
                    (alone.mean_survival[law]["all"][0] - together.mean_survival[law]["all"][d])
                    .abs()
                    .max()
                )
                < 1e-3
            ), law


def test_mass_is_conserved_for_every_draw_and_cluster(together: Exposure) -> None:
    assert together.mass_balance_error < 1e-12
    assert together.cells.shape == (4, 2, 3, len(together.distances_m))
    assert together.means["intracellular"].shape == together.half_distance.shape == (4, 2, 3)
    assert together.killed["rate"]["beyond"].shape == (4, 3)


def test_batches_of_draws_are_joined_in_order(together: Exposure) -> None:
    every = under(factors=FACTORS, ramp=0.0)
    joined = Exposure.concatenate(
        [solve_exposure(every.select_draws(a, b), treatment(ramp=0.0)) for a, b in ((0, 1), (1, 4))]
    )
    for name in ("cells", "lethal_radius", "killed", "means"):
        mine, theirs = (getattr(e, name) for e in (joined, together))
        while isinstance(mine, dict):
            mine, theirs = mine[key := next(iter(mine))], theirs[key]
        torch.testing.assert_close(
            mine, theirs, rtol=0.02, atol=1e-2 * float(theirs.nan_to_num().max()), equal_nan=True
        )


def test_draws_do_not_influence_one_another(together: Exposure) -> None:
    """Nothing that another draw holds and that moves no drug changes what one sees."""
    other = under(factors=FACTORS, ramp=0.0)
    values = {**other.values, "EC50_i": other.values["EC50_i"] * tensor((1.0, 5.0, 5.0, 5.0))}
    found = solve_exposure(replace(other, values=values), treatment(ramp=0.0))
    mine, theirs = (e.mean_survival["peak"]["all"] for e in (together, found))
    assert torch.equal(mine[0], theirs[0])
    assert torch.all(theirs[1:] > mine[1:])


def test_time_is_divided_where_release_and_where_factors_change() -> None:
    t = treatment(ramp=300.0)
    course = MicroscaleTimeline(under(ramp=300.0), t)
    parts = course.segments()
    assert parts[0].start == 0.0
    assert all(a.end == b.start for a, b in itertools.pairwise(parts))
    assert set(t.events()) <= {p.start for p in parts} | {parts[-1].end}
    assert {p.start for p in parts if p.starts_at_event} == {e for e in t.events() if e < t.end_s}
    in_ramp = [p for p in parts if p.end <= 300.0]
    assert len(in_ramp) > 5
    moving = replace(
        under(ramp=300.0),
        factors=lambda s: {
            "P": torch.exp(tensor((0.0, 1.0, 0.5, -1.0)) * min(1.0, s / (3 * HOUR)))
        },
    )
    later = [p for p in MicroscaleTimeline(moving, t).segments() if p.start >= 2400.0]
    assert max(abs(p.flow_time_s - q.flow_time_s) for p, q in itertools.pairwise(later)) > 0
    assert all((p.end - p.start) / (3 * HOUR) <= 0.3 + 1e-9 for p in later if p.end <= 3 * HOUR)
    assert len([p for p in later if p.start >= 3 * HOUR]) == 1


def test_coefficients_at_the_middle_of_segments_are_accurate_enough() -> None:
    """Against parts a fifth as long: the peak in cells moves less than half a percent, in a heating
    that is mostly ramps.
    """
    few, given = (
        under(slice(0, 2), ramp=300.0, minutes=8.0),
        treatment(ramp=300.0, end_h=0.4, minutes=8.0),
    )
    coarse = solve_exposure(few, given)
    fine = solve_exposure(few, given, limits=replace(MICROSCALE_LIMITS, release_change=0.04))
    apart = (
        coarse.peak_intracellular - fine.peak_intracellular
    ).nan_to_num().norm() / fine.peak_intracellular.nan_to_num().norm()
    assert 0 < float(apart) < 5e-3


def test_the_spread_of_radii_is_limited_so_that_every_class_has_tissue() -> None:
    few = under()
    wide = {**few.values, "spread_Rt": tensor((0.6, 0.6, 0.6, 0.6))}
    c = replace(few, maps=replace(few.maps, v_p=10 * few.maps.v_p), values=wide).cylinders()
    assert float((c.R_t / c.wall_radius).min()) >= MIN_RADIUS_RATIO * (1 - 1e-9)
    v_b = (c.wall_radius[:, 0] ** 2) / (c.vessels * c.R_t**2).sum(-1)
    expected = (
        (10 * tensor((0.01, 0.03, 0.06)) / few.relative_aif_scale[:, None] / (1 - value("Hct")))
        .clamp_max(0.99 / MIN_RADIUS_RATIO**2)
        .flatten()
    )
    torch.testing.assert_close(v_b, expected)
