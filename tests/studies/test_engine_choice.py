"""The engines that a fit of voxels runs, and the messages about the choice."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nanopinn import FitSettings, ImagingInputs
from nanopinn.inference.pose import PosedProblem
from nanopinn.progress import ignore_progress
from nanopinn.studies import fit as study


class _Unknowns:
    """Two scalars."""

    functions = ()

    def __len__(self) -> int:
        return 2

    @property
    def prior_mean(self) -> np.ndarray:
        return np.zeros(2)


class _FvCalledError(Exception):
    """Ends a fit when its last engine starts."""


@pytest.mark.parametrize(
    ("engine", "expected"),
    [("auto", ["fv"]), ("fv", ["fv"]), ("krylov", ["krylov", "fv"]), ("pinn", ["krylov", "fv"])],
)
def test_auto_runs_fv_alone_and_krylov_is_followed_by_fv(
    monkeypatch: pytest.MonkeyPatch, engine: str, expected: list[str]
) -> None:
    problem = SimpleNamespace(unknowns=_Unknowns())
    ran: list[str] = []

    def fit_krylov(posed: Any, **_: Any) -> SimpleNamespace:
        ran.append("krylov")
        return SimpleNamespace(theta=np.ones(2), problem=SimpleNamespace(unknowns=posed.unknowns))

    def fit_fv(posed: Any, start: Any, **_: Any) -> None:
        ran.append("fv")
        assert (start is None) == (len(ran) == 1)
        raise _FvCalledError

    monkeypatch.setattr(study, "fit_krylov", fit_krylov)
    monkeypatch.setattr(study, "fit_fv", fit_fv)
    monkeypatch.setattr(study, "without_unknown_functions", lambda posed: posed)
    with pytest.raises(_FvCalledError):
        study.run_inference(
            None,  # type: ignore[arg-type]
            PosedProblem(problem, None, ()),  # type: ignore[arg-type]
            FitSettings.model_validate({"engine": engine}),
            ignore_progress,
            {},
        )
    assert ran == expected


@pytest.mark.parametrize(("engine", "said"), [("pinn", True), ("auto", False)])
def test_pinn_on_voxels_says_that_krylov_runs(
    monkeypatch: pytest.MonkeyPatch, engine: str, said: bool
) -> None:
    limits: list[str] = []
    problem = SimpleNamespace(course=None)
    kept: list[PosedProblem] = []
    monkeypatch.setattr(study, "_fit_identity", lambda *_: {})
    monkeypatch.setattr(study, "make_maps", lambda *_: SimpleNamespace(read={}, file_hashes={}))
    monkeypatch.setattr(study, "pose_study", lambda *_: PosedProblem(problem, None, ()))  # type: ignore[arg-type]
    monkeypatch.setattr(
        study,
        "_identifiability_statements",
        lambda posed, *_: (posed, ("p_e keeps its prior.",)),
    )
    monkeypatch.setattr(
        study, "_infer_with_cpu_fallback", lambda imaging, posed, *_: kept.append(posed)
    )
    study.run_fit(
        ImagingInputs(dce="a.nii", cest="b.nii"),
        FitSettings.model_validate({"engine": engine}),
        report_limits=limits.append,
    )
    assert (study.PINN_ON_VOXELS in limits[0]) == said
    assert (study.PINN_ON_VOXELS in kept[0].assumptions) == said
    assert "krylov" in study.PINN_ON_VOXELS
    assert "\n" not in study.PINN_ON_VOXELS
