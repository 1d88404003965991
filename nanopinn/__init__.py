"""Imaging-driven inverse modelling of tumour nanomedicine.

import nanopinn
study = nanopinn.run_fit(nanopinn.ImagingInputs(dce="dce.nii.gz", cest="ph.nii.gz", t1=1.4), nanopinn.FitSettings())
print(study.fit.summary())
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "ImagingInputs": "nanopinn.imaging.inputs",
    "FitSettings": "nanopinn.workflows.settings",
    "PhantomSettings": "nanopinn.workflows.settings",
    "run_fit": "nanopinn.workflows.fit",
    "load_fit": "nanopinn.inference.checkpoint",
    "run_check": "nanopinn.workflows.check",
    "MapFiles": "nanopinn.workflows.simulate",
    "SimulationSettings": "nanopinn.workflows.settings",
    "run_simulation": "nanopinn.workflows.simulate",
    "write_simulation": "nanopinn.report.simulation",
    "run_maps": "nanopinn.workflows.maps",
    "write_imaging": "nanopinn.report.imaging",
    "make_phantom": "nanopinn.workflows.phantom",
    "run_verification": "nanopinn.workflows.verify",
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
