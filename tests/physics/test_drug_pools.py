"""The registry of drug pools: volumes of the declared pools, and a pool that a test adds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from nanopinn.parameters import SCALARS, Prior, ScalarDefinition, value
from nanopinn.physics.drug_pools import (
    DRUG_POOLS,
    DrugPool,
    DrugPoolOptions,
    PoolConditions,
    drug_pools,
    volume_fractions,
)
from nanopinn.physics.pools import PoolAssembler
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.physics.tumour import TumourModel

ONE = torch.ones((2, 2, 2), dtype=torch.float64)
TISSUE = TissueMaps(ONE, 1e-3 * ONE, 0.3 * ONE, 0.03 * ONE, 6.9 * ONE)
#: Of the pool that a test adds, 1/s.
K_IN, K_OUT = 3e-4, 1e-4


def add_lysosomal(pools: PoolAssembler, model: TumourModel, conditions: PoolConditions) -> None:
    pools.add_transfer("intracellular", "lysosomal", K_IN)
    pools.add_transfer("lysosomal", "intracellular", K_OUT)


LYSOSOMAL = DrugPool(
    "lysosomal",
    "drug trapped in lysosomes",
    "tissue",
    False,
    lambda o: "lysosomal" in o.further,
    add_lysosomal,
)


def test_a_concentration_refers_to_the_declared_volume() -> None:
    names = tuple(DRUG_POOLS)
    found = volume_fractions(names, TISSUE)[:, 0, 0, 0]
    expected = {"interstitium": 0.3, "tissue": 1.0, "plasma": 0.03}
    assert found.tolist() == [expected[DRUG_POOLS[n].volume] for n in names]


def test_a_pool_is_added_by_its_declaration_and_an_option(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(DRUG_POOLS, "lysosomal", LYSOSOMAL)
    detail = DrugPoolOptions(carrier=False, further=("lysosomal",))
    assert detail.pools == ("free", "intracellular", "nuclear", "lysosomal")
    assert DrugPoolOptions(carrier=False).pools == ("free", "intracellular", "nuclear")
    impermeable = TumourModel.from_maps(TISSUE, None, {"P": 0.0})
    pools = drug_pools(impermeable, 0 * ONE, 0 * ONE, detail)
    n = len(pools.names)
    A = np.zeros((n, n))
    for (row, column), rate in pools.reaction.items():
        A[row, column] = float(rate.flatten()[0]) / float(pools.capacity[row, 0, 0, 0])
    U = expm(-A * 1e8) @ np.array([1.0, 0.0, 0.0, 0.0])
    at = {name: i for i, name in enumerate(pools.names)}
    assert U[at["lysosomal"]] / U[at["intracellular"]] == pytest.approx(K_IN / K_OUT, rel=1e-6)
    amount = volume_fractions(pools.names, TISSUE)[:, 0, 0, 0].numpy() @ U
    assert amount == pytest.approx(0.3, rel=1e-6)  # all drug that was free at the start


@pytest.mark.parametrize("symbol", ["Vmax", "krel0_pH", "k_off_DNA"])
def test_a_scalar_that_multiplies_a_parameter_reaches_its_pool(
    symbol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    factor = ScalarDefinition(
        name="factor",
        label="factor",
        unit="1",
        per_unit=1.0,
        group="cells",
        multiplies=symbol,
        stated_default=3.0,
        stated_prior=Prior("lognormal", 1.0),
    )
    given = drug_pools(
        TumourModel.from_maps(TISSUE, None, None, {symbol: 3 * value(symbol)}), ONE, ONE
    )
    plain = drug_pools(TumourModel.from_maps(TISSUE), ONE, ONE)
    monkeypatch.setitem(SCALARS, factor.name, factor)
    multiplied = drug_pools(TumourModel.from_maps(TISSUE), ONE, ONE)
    for at, rate in given.reaction.items():
        torch.testing.assert_close(multiplied.reaction[at], rate, rtol=1e-12, atol=0.0)
    assert any(not torch.equal(plain.reaction[at], rate) for at, rate in given.reaction.items())
