"""Rankings of inputs: a function with known indices, outcomes that are undefined at some points,
and a small treatment.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import ndtr

from nanopinn.errors import InputError
from nanopinn.parameters import value
from nanopinn.physics.formulation_library import THERMOSENSITIVE
from nanopinn.physics.heat import scheduled_temperature
from nanopinn.physics.plasma import Dose
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.physics.treatment import GivenDose, Heating, RadiationCourse, Treatment
from nanopinn.studies.arms.sensitivity_ranking import (
    UncertainInput,
    input_from_table,
    rank_inputs,
    rank_penetration_inputs,
)

Array = NDArray[np.float64]


def angle(z: Array) -> Array:
    """Uniform from -pi to pi, of a standard normal deviate."""
    return np.pi * (2 * ndtr(z) - 1)


ANGLES = [UncertainInput(n, angle) for n in ("x1", "idle", "x2", "x3")]


def ishigami(at: Mapping[str, Array]) -> dict[str, Array]:
    return {
        "y": np.sin(at["x1"]) + 7 * np.sin(at["x2"]) ** 2 + 0.1 * at["x3"] ** 4 * np.sin(at["x1"])
    }


def test_indices_of_ishigamis_function_are_known_and_an_idle_input_ranks_last() -> None:
    """First .3139, .4424, 0, total .5576, .4424, .2437 (Ishigami and Homma 1990, a = 7, b = .1)."""
    found = rank_inputs(ANGLES, ishigami, trajectories=40, leading=3, points=1024)["y"]
    assert found.inputs[-1] == "idle"
    assert found.effect[-1] == 0.0
    assert set(found.leading) == {"x1", "x2", "x3"}
    at = [found.leading.index(n) for n in ("x1", "x2", "x3")]
    np.testing.assert_allclose(found.first[at], [0.3139, 0.4424, 0.0], atol=0.04)
    np.testing.assert_allclose(found.total[at], [0.5576, 0.4424, 0.2437], atol=0.04)
    assert found.valid_share == 1.0


def test_points_without_the_outcome_are_left_out_with_their_block() -> None:
    """A line that is unknown in a corner: its elementary effects are its slopes over the range
    moved through, whatever is left.
    """

    def cut(at: Mapping[str, Array]) -> dict[str, Array]:
        u, v = (ndtr(at[n]) for n in ("u", "v"))
        return {"y": np.where(u + v < 0.2, np.nan, 2 * u + v)}

    found = rank_inputs(
        [UncertainInput(n, lambda z: z) for n in "uv"], cut, trajectories=40, leading=0
    )["y"]
    assert 0 < found.valid_share < 1
    assert found.inputs == ("u", "v")
    np.testing.assert_allclose(found.effect, [2 * 0.95, 0.95], rtol=1e-9)
    np.testing.assert_allclose(found.effect_sd, 0.0, atol=1e-9)
    with pytest.raises(InputError, match="exists at too few points"):
        rank_inputs(
            [UncertainInput(n, lambda z: z) for n in "uv"],
            lambda at: {"y": np.full(len(at["u"]), np.nan)},
            leading=0,
        )


def test_a_constant_outcome_has_no_indices() -> None:
    found = rank_inputs(
        ANGLES, lambda at: {"y": np.ones(len(at["x1"]))}, trajectories=4, leading=2, points=8
    )["y"]
    assert found.effect.max() == found.total.max() == 0.0


def test_without_salib_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("SALib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="SALib") as caught:
        rank_inputs(ANGLES, ishigami)
    assert "nanopinn[sensitivity]" in str(caught.value)


def test_penetration_of_heated_carriers_depends_on_release_not_on_cell_kill() -> None:
    """The peak at 50 um rises with the release rate; EC50 does not touch it, but decides who is
    killed.
    """
    one = torch.ones((2, 1, 1), dtype=torch.float64)
    maps = TissueMaps(one, 1.5e-3 * one, 0.3 * one, 0.01 * one, 7.0 * one)
    given = (GivenDose(THERMOSENSITIVE, Dose(0.0, 9e-5)),)
    treatment = Treatment(
        given, (Heating(0.0, 900.0, 0.0, "imposed", 315.15, None),), RadiationCourse(), (), 1800.0
    )
    heat = scheduled_temperature(one, 315.15, 0.0, 900.0)
    inputs = [input_from_table(s) for s in ("EC50_i", "krel_TSL_hot", "PS_l")] + [
        input_from_table("ve_t", 0.3, "phi")
    ]
    found = rank_penetration_inputs(
        maps, treatment, (2e-5, 0.0), temperature=heat, inputs=inputs, trajectories=4, leading=0
    )
    peak = next(s for name, s in found.items() if name.startswith("log peak"))
    killed = next(s for name, s in found.items() if name.startswith("killed"))
    assert peak.inputs[-1] == "EC50_i"
    assert peak.effect[-1] == 0.0
    assert killed.inputs[0] == "EC50_i"
    assert peak.effect[peak.inputs.index("krel_TSL_hot")] > peak.effect[peak.inputs.index("PS_l")]
    assert peak.valid_share == 1.0


def test_an_input_of_the_table_may_have_another_median() -> None:
    phi = input_from_table("ve_t", 0.2, "phi")
    assert phi.name == "phi"
    assert float(phi.values_at_deviates(np.zeros(1))[0]) == pytest.approx(0.2)
    assert float(input_from_table("tau_c").values_at_deviates(np.zeros(1))[0]) == pytest.approx(
        value("tau_c")
    )
