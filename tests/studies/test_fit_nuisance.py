"""Combinations of settings that no engine supports are refused before the computation."""

from __future__ import annotations

import pytest

from nanopinn import FitSettings, InputError
from nanopinn.inference.pose import validate_settings


@pytest.mark.parametrize(
    "functions", [{"field": ("release",)}, {"inflow": True}, {"release_law": True}]
)
def test_unknown_functions_are_not_fitted_beside_the_arterial_scale(
    functions: dict[str, object],
) -> None:
    with pytest.raises(InputError, match="aif_sd"):
        validate_settings(FitSettings.model_validate({"aif_sd": 0.1, **functions}))
    validate_settings(FitSettings.model_validate(functions))
