"""The registry of release laws: what every law must satisfy, and a law that a test adds."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from nanopinn.parameters import PARAMETERS, Number, QuantitySpecification, value
from nanopinn.physics.drug_pools import DrugPoolOptions, drug_pools
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.formulation_file import parse_formulation
from nanopinn.physics.release import (
    RELEASE_LAWS,
    ReleaseConditions,
    ReleaseLaw,
    release_trigger,
    triggered_release_rate,
)
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.physics.tumour import TumourModel

ONE = torch.ones((2, 2, 2), dtype=torch.float64)


def q10_rate(c: ReleaseConditions, leak: Number, of: Mapping[str, Number]) -> Tensor:
    """``k = k_leak Q10^((T - T_body) / 10 K)``."""
    return leak * of["Q10"] ** ((c.T_K - of["T_body"]) / 10)


Q10 = ReleaseLaw(
    "q10",
    q10_rate,
    {"Q10": QuantitySpecification("1", "factor of release per 10 K", positive=True)},
    {},
    {"T_body": "T_body"},
    depends_on_temperature=True,
)


def q10_formulation() -> Formulation:
    carrier = {
        quantity: symbol
        for quantity, symbol in {
            "diameter": "d_PLD",
            "leak": "krel_PLD",
            "permeability": "PS_l",
            "transmission": "leak_l",
            "retardation": "f_l",
            "diffusion": "D_l_t",
            "decay": "k_d_lip",
        }.items()
    }
    return parse_formulation(
        {
            "name": "q10-liposome",
            "description": "liposome whose leak rises with temperature",
            **carrier,
            "circulation": {"volume": "V_PLD", "rates": ["k_PLD"]},
            "q10": {"Q10": {"value": 3.0, "unit": "1", "source": "test"}},
        },
        "q10.toml",
    )


@pytest.mark.parametrize("law", RELEASE_LAWS.values(), ids=RELEASE_LAWS)
def test_a_law_states_symbols_of_its_own_units(law: ReleaseLaw) -> None:
    assert law.depends_on_pH or law.depends_on_temperature
    assert set(law.default_symbols) == set(law.quantities)
    for name, what in law.quantities.items():
        parameter = PARAMETERS[law.default_symbols[name]]
        assert parameter.unit == what.unit
        assert what.accepts(parameter.value)


@pytest.mark.parametrize("law", RELEASE_LAWS.values(), ids=RELEASE_LAWS)
def test_no_law_releases_slower_than_the_untriggered_carrier(law: ReleaseLaw) -> None:
    pH, T = torch.meshgrid(
        torch.linspace(5, 8, 13, dtype=torch.float64),
        torch.linspace(293.0, 323.0, 13, dtype=torch.float64),
        indexing="ij",
    )
    rate = triggered_release_rate(release_trigger(law.key), ReleaseConditions(pH, T), 1e-6, value)
    assert (rate >= 1e-6 * (1 - 1e-12)).all()


def test_a_release_law_is_added_by_its_entry_and_a_formulation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(RELEASE_LAWS, Q10.key, Q10)
    carrier = q10_formulation()
    assert carrier.responds_to_heat
    assert not carrier.responds_to_acid
    assert "q10-liposome.q10.Q10" in carrier.symbols()
    model = TumourModel.from_maps(TissueMaps(ONE, 1e-3 * ONE, 0.3 * ONE, 0.03 * ONE, 6.9 * ONE))
    T = value("T_body") + 5 * ONE
    k = model.release_rate(carrier, T)
    assert k == pytest.approx(value("krel_PLD") * math.sqrt(3.0))
    hot = carrier.heat_release_excess(T)
    assert hot == pytest.approx(k - value("krel_PLD"))
    detail = DrugPoolOptions(vessels=True)
    pools = drug_pools(model, 0 * ONE, 0 * ONE, detail, k, hot)
    at = {name: pools.names.index(name) for name in detail.pools}
    assert -pools.reaction[at["free"], at["encapsulated"]] == pytest.approx(0.3 * k)
    assert -pools.reaction[at["vessel free"], at["vessel encapsulated"]] == pytest.approx(
        0.03 * hot
    )
