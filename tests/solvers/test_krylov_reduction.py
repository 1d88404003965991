"""The reduced basis of Krylov fields against time integration and exact exponentials."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nanopinn.imaging.dce.convolution import convolve_exponential
from nanopinn.physics.pools import PoolAssembler
from nanopinn.solvers.forward import ForwardModel
from nanopinn.solvers.krylov_reduction import low_rank_response
from nanopinn.solvers.linear import SolverError
from nanopinn.solvers.operator import PoolOperator
from nanopinn.solvers.runge_kutta import SDIRK3
from nanopinn.verification.case import small_tissue


def test_the_reduced_basis_equals_time_integration_of_the_contrast_agent() -> None:
    setting, aif, frames = small_tissue()
    none = torch.zeros(0, dtype=torch.float64)
    forward = ForwardModel(setting, lambda _: {})
    flow = forward.solve_flow(none)
    integrated, _, _ = forward.solve_contrast(none, flow, aif, frames, SDIRK3, 8)
    pools, operator, _ = forward.linearise_pools("contrast", none, flow)
    found = low_rank_response(operator, pools.capacity, aif.times_s, aif.plasma_mM, frames)
    plasma = torch.as_tensor(np.interp(frames, aif.times_s, aif.plasma_mM, left=0.0))
    C = setting.maps.phi * found.evaluate()[:, 0] + setting.maps.v_p * plasma[:, None, None, None]
    assert float((C - integrated).norm() / integrated.norm()) < 3e-5
    assert len(found.fields) < 25


def test_cells_without_transport_respond_with_their_exponentials() -> None:
    """Nothing moves, two rates: the space closes on itself after two fields."""
    setting, aif, frames = small_tissue()
    maps = setting.maps
    rate = torch.where(maps.tumour > 0.5, 2e-3, 8e-3)

    system = PoolAssembler(("one",), maps.phi)
    system.add_plasma_source("one", 0, 3e-3 + 0 * maps.phi)
    system.add_loss("one", rate)
    pools = system.coefficients()
    still = tuple(
        torch.zeros([n + (a == b) for b, n in enumerate(rate.shape)], dtype=torch.float64)
        for a in range(3)
    )
    operator = PoolOperator.from_pools(pools, still, setting.grid)
    found = low_rank_response(
        operator, pools.capacity, aif.times_s, aif.plasma_mM, frames, tolerance=1e-10
    )
    exact = 3e-3 * convolve_exponential(
        torch.as_tensor(aif.times_s), torch.as_tensor(aif.plasma_mM), rate, torch.as_tensor(frames)
    )
    torch.testing.assert_close(found.evaluate()[:, 0], exact.movedim(-1, 0), rtol=1e-9, atol=1e-12)


def test_a_basis_that_is_too_small_is_refused() -> None:
    setting, aif, frames = small_tissue()
    none = torch.zeros(0, dtype=torch.float64)
    forward = ForwardModel(setting, lambda _: {})
    pools, operator, _ = forward.linearise_pools("contrast", none, forward.solve_flow(none))
    with pytest.raises(SolverError, match="time integration"):
        low_rank_response(operator, pools.capacity, aif.times_s, aif.plasma_mM, frames, max_rank=3)
