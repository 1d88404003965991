"""Imaging-driven inverse modelling of tumour nanomedicine.

import nanopinn
study = nanopinn.run_fit(nanopinn.ImagingInputs(dce="dce.nii.gz", cest="ph.nii.gz", t1=1.4), nanopinn.FitSettings())
print(study.fit.summary())

Systems of equations of your own are fitted by the same engines; times in s, or in whatever unit the rate is written in:

import torch
rate = lambda t, y, s: s["growth"] * y * (1 - y / s["capacity"])
unknowns = nanopinn.UnknownSet((nanopinn.Unknown.of("growth", 0.3, 1.0), nanopinn.Unknown.of("capacity", 900.0, 1.0)))
volumes = nanopinn.Series.of("volume", times=[0, 3, 6, 9, 12, 15], measured=[52, 131, 268, 512, 690, 843])
problem = nanopinn.SystemProblem(unknowns, rate, lambda s: torch.tensor([50.0]), (volumes,))
print(nanopinn.fit_fv(problem).run["growth"], nanopinn.fit_pinn(problem).run["growth"])
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "ImagingInputs": "nanopinn.imaging.inputs",
    "FitSettings": "nanopinn.workflows.settings",
    "PhantomSettings": "nanopinn.workflows.settings",
    "run_fit": "nanopinn.workflows.fit",
    "write_fit": "nanopinn.workflows.fit",
    "load_fit": "nanopinn.inference.checkpoint",
    "run_check": "nanopinn.workflows.check",
    "MapFiles": "nanopinn.workflows.simulate",
    "SimulationSettings": "nanopinn.workflows.settings",
    "run_simulation": "nanopinn.workflows.simulate",
    "read_formulation": "nanopinn.workflows.formulations",
    "build_arms": "nanopinn.workflows.therapy.arms",
    "ComparisonSettings": "nanopinn.workflows.settings",
    "compare_arms": "nanopinn.workflows.therapy",
    "write_comparison": "nanopinn.report.comparison",
    "write_simulation": "nanopinn.report.simulation",
    "PlanSettings": "nanopinn.workflows.settings",
    "plan_protocol": "nanopinn.workflows.plan",
    "write_plan": "nanopinn.report.table",
    "run_maps": "nanopinn.workflows.maps",
    "write_imaging": "nanopinn.report.imaging",
    "make_phantom": "nanopinn.workflows.phantom",
    "run_verification": "nanopinn.workflows.verify",
    "SystemProblem": "nanopinn.inference.systems",
    "Series": "nanopinn.inference.series",
    "Unknown": "nanopinn.inference.unknowns",
    "UnknownSet": "nanopinn.inference.unknowns",
    "fit_fv": "nanopinn.inference.fv",
    "fit_krylov": "nanopinn.inference.pinn.engine",
    "fit_pinn": "nanopinn.inference.pinn.systems",
    "InputError": "nanopinn.errors",
    "OutputError": "nanopinn.errors",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("nanopinn")
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'nanopinn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*_PUBLIC, "__version__"]
