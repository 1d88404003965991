"""Outcomes of arms: means over clusters, intervals over draws, and the conclusion in words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nanopinn.physics.cell_kill import KILL_MODELS
from nanopinn.results import (
    HeatingDurationSweep,
    VoxelCluster,
    median_and_interval,
    probability_of_majority,
)
from nanopinn.solvers.krogh_exposure import CELL_POPULATIONS, Exposure
from nanopinn.studies.arms.outcomes import (
    compute_outcomes,
    exposure_maps,
    penetration_curves,
    summarise_comparison,
    tumour_mean,
)

DRAWS, GROUPS, X = 21, 3, 61


def exposure(reach_um: float, spread_um: float = 0.0, beyond: float = 0.3) -> Exposure:
    """Cells die within ``reach_um`` from the vessel, which varies between draws."""
    x = torch.linspace(0.0, 150e-6, X, dtype=torch.float64)
    reach = reach_um + spread_um * torch.linspace(-1, 1, DRAWS, dtype=torch.float64)
    reach = torch.cat([reach.median()[None], reach])[:, None].expand(-1, GROUPS)
    n = DRAWS + 1
    survival = (x * 1e6 > reach[..., None]).double()
    peak = 1e-12 * torch.exp(-x / 30e-6).expand(n, GROUPS, X)
    dead = ((reach - 50) / 50).clamp(0, 1)
    shares = {
        "all": torch.ones(n, GROUPS),
        "proliferating": torch.full((n, GROUPS), 0.9),
        "quiescent": torch.full((n, GROUPS), 0.1),
        "beyond": torch.full((n, GROUPS), beyond),
    }
    killed = {
        law: {kind: dead if beyond else dead * torch.nan for kind in CELL_POPULATIONS}
        for law in KILL_MODELS
    }
    in_time = peak[:, None].expand(-1, 2, -1, -1)
    return Exposure(
        distances_m=x,
        times_s=(3600.0, 7200.0),
        free=in_time,
        cells=in_time,
        peak_intracellular=peak,
        auc_free=peak,
        half_distance=torch.full((n, 2, GROUPS), 25e-6),
        shares=shares,
        mean_peak_intracellular=torch.full((n, GROUPS), 1e-13),
        mean_auc_free=torch.full((n, GROUPS), 1.0),
        survival={law: survival for law in KILL_MODELS},
        lethal_radius={law: reach * 1e-6 for law in KILL_MODELS},
        killed=killed,
        mean_survival={law: {kind: 1 - dead for kind in CELL_POPULATIONS} for law in KILL_MODELS},
        means={},
        far_distance_m=50e-6,
        lethal=0.5,
        mass_balance_error=1e-12,
        steps=10,
    )


VOXELS = np.array([1.0, 2.0, 7.0])


def test_a_tumour_mean_weighs_clusters_by_their_voxels_with_such_tissue():
    values = torch.tensor([[1.0, 4.0, float("nan")]], dtype=torch.float64)
    assert tumour_mean(values, VOXELS)[0] == pytest.approx((1 * 1 + 2 * 4) / 3)
    shares = torch.tensor([[0.5, 0.25, 0.1]], dtype=torch.float64)
    assert tumour_mean(values, VOXELS, shares)[0] == pytest.approx((0.5 * 1 + 0.5 * 4) / 1.0)
    assert np.isnan(tumour_mean(values * torch.nan, VOXELS)).all()


def test_an_interval_is_of_the_draws_and_not_of_the_run_at_the_medians():
    values = np.concatenate([[1000.0], np.arange(101.0)])
    assert median_and_interval(values) == pytest.approx([50.0, 5.0, 95.0])
    assert median_and_interval(values[:1]) == pytest.approx([1000.0] * 3)
    assert probability_of_majority(np.array([0.0, 1.0, 1.0, 0.4, np.nan])) == pytest.approx(2 / 3)


def said(e: Exposure, heating: HeatingDurationSweep | None = None) -> str:
    rows = compute_outcomes({"tsl": e, "free": exposure(10)}, VOXELS)
    groups = [VoxelCluster(int(v), {"vp": 0.01 * v}, {"tsl": (0.1 * v, 0.0, 1.0)}) for v in VOXELS]
    return " ".join(summarise_comparison("tsl", rows, groups, heating, (), 50.0, 0.5))


def test_the_answer_is_yes_no_or_uncertain_by_the_draws():
    assert said(exposure(110)).startswith("Yes")
    assert said(exposure(20)).startswith("No")
    assert said(exposure(75, 20)).startswith("The answer is uncertain")


def test_without_draws_the_certainty_of_the_answer_is_unknown():
    e = exposure(110)
    rows = [
        replace(o, values={a: v[:1] for a, v in o.values.items()})
        for o in compute_outcomes({"tsl": e}, VOXELS)
    ]
    text = " ".join(summarise_comparison("tsl", rows, [], None, (), 50.0, 0.5))
    assert "certainty of the answer is unknown" in text
    assert "probability" not in text
    assert "interval" not in text


def test_without_tissue_far_from_vessels_there_is_no_answer():
    assert "cannot be answered" in said(exposure(110, beyond=0.0))


def test_the_heating_time_is_the_shortest_that_reaches_half_of_the_cells():
    p = {law: np.array([0.1, 0.6, 0.9]) for law in KILL_MODELS} | {
        "rate": np.array([0.1, 0.2, 0.3])
    }
    heating = HeatingDurationSweep(
        "tsl", np.array([15.0, 30.0, 60.0]), {law: np.zeros((3, 3)) for law in KILL_MODELS}, p
    )
    text = said(exposure(75, 20), heating)
    assert "30 min by the Hill (C_max) model" in text
    assert "none by the time-integrated E_max model" in text


def test_maps_have_the_value_of_each_cluster_in_its_voxels_only():
    labels = np.array([[[0, 1], [2, -1]]])
    m = exposure_maps(exposure(75, 20), labels)["lethal_radius_peak"]
    assert m.values[0, 0, 0] == pytest.approx(75.0)
    assert np.isnan(m.values[0, 1, 1])
    assert m.std is not None
    assert m.std[0, 0, 1] == pytest.approx(np.std(np.linspace(-20, 20, DRAWS)))


def test_curves_have_the_units_of_their_figures():
    c = penetration_curves(exposure(75), VOXELS)
    assert c.distance_um[-1] == pytest.approx(150.0)
    assert c.peak.shape == (3, X)
    assert c.cells.shape == (3, 2, X)
    assert c.peak[0, 0] == pytest.approx(1.0)  # 1e-12 kg per 1e5 cells is 1 ng
