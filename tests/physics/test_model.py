"""The tumour model: its description, the effects of radiation, and the equilibria of its pools."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import nanopinn
from nanopinn.parameters import PARAMETERS, RELEASE_LAW, value
from nanopinn.physics.cell_kill import CELLS_PER_UNIT
from nanopinn.physics.drug_pools import FULL_POOLS, DrugPoolOptions, drug_pools
from nanopinn.physics.formulation_library import PH_SENSITIVE, THERMOSENSITIVE
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.physics.tumour import TumourModel
from nanopinn.report.model_description import describe_model

PHYSICS = Path(nanopinn.__file__).parent / "physics"
SHAPE = (4, 4, 4)


def maps() -> TissueMaps:
    tumour = torch.zeros(SHAPE, dtype=torch.float64)
    tumour[1:3, 1:3, 1:3] = 1
    one = torch.ones_like(tumour)
    return TissueMaps(tumour, 1e-3 * one, 0.3 * one, 0.03 * one, 6.9 * one)


def test_the_model_description_shows_every_parameter_with_its_source() -> None:
    text = describe_model(TumourModel.from_maps(maps(), {"l": 1.2e-3}))
    code = "".join(
        (PHYSICS / f"{name}.py").read_text()
        for name in ("flow", "drug_pools", "tumour", "cell_kill")
    )
    used = set(re.findall(r'value\("(\w+)"\)', code))
    assert [s for s in sorted(used) if f"  {s} = " not in text] == []
    assert "l_t = 0.0012 m (table: 0.00053)" in text
    assert PARAMETERS["D_f_t"].source in text
    assert "div u = J_v - J_L" in text


def test_radiation_changes_the_tumour_and_leaves_normal_tissue() -> None:
    factors = {"p_e": 0.8, "Lp": 1.5, "K": 2.0, "P": 1.3, "SV": 0.9}
    before, after = TumourModel.from_maps(maps()), TumourModel.from_maps(maps(), None, factors)
    inside = maps().tumour > 0.5
    expected = {"K": 2.0, "LpSV": 1.5 * 0.9, "p_e": 0.8}
    for field, factor in expected.items():
        ratio = getattr(after.flow_coefficients(), field) / getattr(
            before.flow_coefficients(), field
        )
        assert ratio[inside] == pytest.approx(factor)
        assert ratio[~inside] == pytest.approx(1.0)
    for wall in (
        lambda m: m.liposome_permeability()[0],
        lambda m: m.permeability(value("P_f_t"), value("P_f_n")),
    ):
        assert wall(after)[inside] == pytest.approx(1.3 * 0.9 * wall(before)[inside])
        assert wall(after)[~inside] == pytest.approx(wall(before)[~inside])


def test_a_simulation_uses_the_fitted_release_law_for_acid_triggered_carriers_only() -> None:
    one = torch.ones(SHAPE, dtype=torch.float64)
    slope = torch.linspace(-1, 1, 4, dtype=torch.float64)[:, None, None] * one
    fitted = {
        "krel_ref": 8e-5,
        "pK_rel": 6.5,
        "release": torch.tensor([0.7]).double(),
        RELEASE_LAW: torch.linspace(-0.5, 0.4, 5).double(),
    }
    model = TumourModel.from_maps(
        replace(maps(), pH=6.9 * one + 0.3 * slope, shapes={"release": slope[None]}), fitted
    )
    body = value("T_body") * one
    assert model.release_rate(PH_SENSITIVE, body) == pytest.approx(model.release_rate())
    # the image showed a carrier that acid opens: what it says of that is nothing to one that heat
    # opens
    assert model.release_rate(THERMOSENSITIVE, body) == pytest.approx(value("krel_TSL_37") * one)


EVERYTHING = DrugPoolOptions(carrier=True, retained=True, bound=True, saturable=True, vessels=True)


@pytest.mark.parametrize(
    "detail",
    [
        DrugPoolOptions(),
        DrugPoolOptions(bound=True),
        FULL_POOLS,
        DrugPoolOptions(carrier=False, bound=True),
        EVERYTHING,
    ],
)
def test_drug_that_leaves_one_pool_enters_another_or_is_lost(detail: DrugPoolOptions) -> None:
    """Columns of the reaction matrix sum to walls, lymph and decay: none is negative, and none of a
    cell's pools loses.
    """
    zero = torch.zeros(SHAPE, dtype=torch.float64)
    hot = 0.05 + zero
    pools = drug_pools(TumourModel.from_maps(maps()), 1e-5 + zero, zero, detail, hot, hot)
    losses = [
        sum(m for (_, q), m in pools.reaction.items() if q == column) + zero
        for column in range(len(pools.names))
    ]
    assert pools.names == detail.pools
    assert min(float(loss.min()) for loss in losses) > -1e-15  # round-off of k_a
    for name in ("intracellular", "nuclear"):
        assert float(losses[pools.names.index(name)].abs().max()) < 1e-15


def test_cells_and_interstitium_are_at_equilibrium_at_the_ratio_of_the_constants() -> None:
    """V8: without the effect of pH, z = 0 at I = (K_i/K_e) F, K_i per tissue volume, however far
    transport saturates.
    """
    tissue = maps()
    neutral = TissueMaps(tissue.tumour, tissue.PS, tissue.phi, tissue.v_p, 7.4 + 0 * tissue.pH)
    transfer = drug_pools(
        TumourModel.from_maps(neutral), 0 * tissue.PS, 0 * tissue.PS, FULL_POOLS
    ).transfers[0]
    K_in = value("K_i") * value("rho_c") / CELLS_PER_UNIT
    for F in (1e-6, 1e-4, 1e-2):
        U = torch.zeros((len(FULL_POOLS.pools), *SHAPE), dtype=torch.float64)
        U[transfer.outside], U[transfer.inside] = F, K_in / value("K_e") * F
        inside = tissue.tumour > 0.5
        assert float((transfer.rate(U) / (transfer.uptake * F))[inside].abs().max()) < 1e-12


def test_every_coefficient_is_in_double_precision() -> None:
    """Two plain numbers under torch.where would be single: the scaling of p_e, Lp and K would hold
    to 1e-8 only.
    """
    model = TumourModel.from_maps(maps())
    flow = model.flow_coefficients()
    assert {
        t.dtype for t in (flow.K, flow.LpSV, flow.p_e, flow.LpLSL, model.select_by_tissue(0.1, 0.2))
    } == {torch.float64}
    assert float(flow.p_e[0, 0, 0]) == pytest.approx(value("p_e_n"), rel=1e-14)
