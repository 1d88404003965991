"""A kinetic model is added by one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nanopinn.imaging.dce import models
from nanopinn.imaging.dce.aif_population import POPULATION_CURVES
from nanopinn.imaging.dce.impulse_response import InputCurve, evaluate
from nanopinn.imaging.dce.voxel_fit import fit_kinetics

#: Uptake without washout or plasma: ``I(t) = Ktrans``.
SOURCE = """
import torch

from nanopinn.imaging.dce.impulse_response import ImpulseResponse, no_derived_quantities
from nanopinn.imaging.dce.impulse_response import linear_fit

NAME, CAPLEX = "trapping", "M.IC1.999"
NAMES, LOWER, UPPER, DERIVED = ("Ktrans",), (0.0,), (5.0 / 60,), ()
derived = no_derived_quantities


def impulse_response(parameters):
    K = parameters[:, 0]
    jacobian = torch.tensor([[0.0], [1.0], [0.0]], dtype=K.dtype).expand(len(K), 3, 1)
    return ImpulseResponse(0 * K, K[:, None], 0 * K[:, None], jacobian)


def initial_guesses(C, curve):
    return (linear_fit(C, [curve.plasma_integral]),)
"""


def test_a_model_is_added_by_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "irreversible_trapping.py").write_text(SOURCE)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    found = models.discover_models()
    assert set(found) == {*models.MODELS, "trapping"}
    model, truth = found["trapping"], torch.tensor([[1e-3], [4e-3]], dtype=torch.float64)
    frames = np.arange(40) * 5.0
    aif = POPULATION_CURVES["parker"].plasma(
        arrival_s=20.0, until_s=200.0, hematocrit=0.42, dose_mmol_per_kg=0.1
    )
    curve = InputCurve(aif, frames)
    C, _ = evaluate(model, truth, curve)
    fit = fit_kinetics(model, C, curve)
    torch.testing.assert_close(fit.parameters, truth, rtol=1e-6, atol=0.0)
    # the area under the input grows as K int Cp
    expected = truth[:, :1] * curve.plasma_integral
    torch.testing.assert_close(C, expected, rtol=1e-6, atol=1e-9)
