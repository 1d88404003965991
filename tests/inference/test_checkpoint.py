"""What is written of a fit can be read back, and nothing else."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import torch

from nanopinn.inference.checkpoint import Checkpoint

from .test_engines import small_problem


def test_a_problem_comes_back_as_it_was_and_predicts_the_same() -> None:
    problem, theta = small_problem()
    here = problem.solve(theta, problem.forward())
    problem = problem.linearised_at(theta, here).with_errors(theta, here)
    content = Checkpoint(problem, theta).to_bytes()
    again = Checkpoint.from_bytes(content)
    np.testing.assert_array_equal(again.theta, theta)
    assert again.problem.unknowns == problem.unknowns
    before, after = (p.predict(theta, p.forward()).residual for p in (problem, again.problem))
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_a_file_that_would_run_code_is_refused() -> None:
    class Harm:
        def __reduce__(self):
            return (print, ("harm",))

    for content in (pickle.dumps(Harm()), b"", b"not a checkpoint"):
        with pytest.raises(ValueError, match="checkpoint"):
            Checkpoint.from_bytes(content)


def test_another_version_is_refused() -> None:
    buffer = io.BytesIO()
    torch.save({"version": 0}, buffer)
    with pytest.raises(ValueError, match="another version"):
        Checkpoint.from_bytes(buffer.getvalue())
