"""Imaging-driven inverse modelling of tumour nanomedicine.

Volumes are paths, NumPy arrays, torch tensors, MetaTensors or nibabel images::

    import nanopinn

    study = nanopinn.fit(dce=signal, cest=ph, mask=tumour, times=times, affine=affine,
                         tr=0.005, flip_angle=15.0, t1=1.4)
    print(nanopinn.format_summary(study.fit))

Systems of ordinary differential equations are fitted by the same engines; times are in s, or in
the unit of time of the rate::

    import torch

    rate = lambda t, y, s: s["growth"] * y * (1 - y / s["capacity"])
    unknowns = nanopinn.UnknownSet((nanopinn.Unknown.with_prior("growth", 0.3, 1.0),
                                    nanopinn.Unknown.with_prior("capacity", 900.0, 1.0)))
    volumes = nanopinn.TimeSeries.from_state(
        "volume", times=[0, 3, 6, 9, 12, 15], measured=[52, 131, 268, 512, 690, 843])
    problem = nanopinn.SystemProblem(unknowns, rate, lambda s: torch.tensor([50.0]), (volumes,))
    print(nanopinn.fit_fv(problem).run["growth"], nanopinn.fit_pinn(problem).run["growth"])
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "fit": "nanopinn.api",
    "maps": "nanopinn.api",
    "simulate": "nanopinn.api",
    "phantom": "nanopinn.api",
    "ImagingInputs": "nanopinn.imaging.imaging_data",
    "FitSettings": "nanopinn.settings",
    "PhantomSettings": "nanopinn.settings",
    "run_fit": "nanopinn.studies.fit",
    "write_fit": "nanopinn.studies.fit",
    "load_fit": "nanopinn.inference.saved_fit",
    "save_fit": "nanopinn.inference.saved_fit",
    "profile_likelihood": "nanopinn.inference.uncertainty.profile",
    "sample_posterior": "nanopinn.inference.uncertainty.sampling",
    "format_imaging_summary": "nanopinn.imaging.imaging_data",
    "format_summary": "nanopinn.report.fit_summary",
    "describe_information": "nanopinn.report.fit_summary",
    "run_check": "nanopinn.studies.fit",
    "MapFiles": "nanopinn.studies.tissue_source",
    "SimulationSettings": "nanopinn.settings",
    "run_simulation": "nanopinn.studies.simulate",
    "format_simulation": "nanopinn.report.treatment_summary",
    "read_formulation": "nanopinn.studies.schedule",
    "build_arms": "nanopinn.studies.arms.arm_specs",
    "ComparisonSettings": "nanopinn.settings",
    "DoseAmount": "nanopinn.settings",
    "HeatingSpec": "nanopinn.settings",
    "FractionSpec": "nanopinn.settings",
    "SecondScan": "nanopinn.settings",
    "compare_arms": "nanopinn.studies.arms.compare",
    "write_comparison": "nanopinn.report.treatment_folder",
    "write_simulation": "nanopinn.report.treatment_folder",
    "PlanSettings": "nanopinn.settings",
    "plan_protocol": "nanopinn.studies.plan",
    "format_plan": "nanopinn.report.plan_summary",
    "write_plan": "nanopinn.report.plan_summary",
    "run_maps": "nanopinn.studies.fit",
    "write_imaging": "nanopinn.report.result_folder",
    "make_phantom": "nanopinn.phantoms.synthetic_study",
    "run_verification": "nanopinn.verification.run",
    "SystemProblem": "nanopinn.inference.ode_problem",
    "TimeSeries": "nanopinn.inference.observations",
    "Unknown": "nanopinn.inference.unknowns",
    "UnknownSet": "nanopinn.inference.unknowns",
    "fit_fv": "nanopinn.inference.engine_driver",
    "fit_krylov": "nanopinn.inference.krylov.krylov_engine",
    "fit_pinn": "nanopinn.inference.pinn.pinn_engine",
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
