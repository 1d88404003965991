"""Combinations of options that no engine serves are refused before anything is computed."""

from __future__ import annotations

import pytest

from nanopinn import FitSettings, InputError
from nanopinn.inference.pose import refuse_without_fv


@pytest.mark.parametrize(
    "functions", [{"field": ("release",)}, {"inflow": True}, {"release_law": True}]
)
def test_unknown_functions_and_the_scale_of_the_arterial_input_are_not_fitted_together(
    functions: dict[str, object],
) -> None:
    with pytest.raises(InputError, match="--aif-sd"):
        refuse_without_fv(FitSettings.model_validate({"aif_sd": 0.1, **functions}))
    refuse_without_fv(FitSettings.model_validate(functions))


@pytest.mark.parametrize("wanted", [{"noise": "estimated"}, {"aif_sd": 0.1}, {"starts": 2}])
def test_what_goes_on_from_finite_volumes_is_refused_to_the_networks_alone(
    wanted: dict[str, object],
) -> None:
    with pytest.raises(InputError, match="fv or auto"):
        refuse_without_fv(FitSettings.model_validate({"engine": "pinn", **wanted}))
