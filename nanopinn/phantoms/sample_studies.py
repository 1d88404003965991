"""Small synthetic studies of mice, each made by one command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanopinn.errors import InputError

#: A tumour of 6 mm in voxels of 0.5 mm, which is made and fitted in a minute or two.
_MOUSE: Mapping[str, Any] = {"shape": (16, 16, 12), "tumour_mm": (6.0, 6.0, 4.5), "refine": 2}
_DOSE: Mapping[str, Any] = {"drug_dose": "5mg/kg", "species": "mouse"}
#: Settings of the sample studies by name: a PEGylated liposome; a thermosensitive liposome with
#: 42 C for 20 min and images before and after; free drug.
SAMPLE_STUDIES: Mapping[str, Mapping[str, Any]] = {
    "mouse-pld": {**_MOUSE, **_DOSE, "formulation": "pld", "drug_times_h": (2.0, 24.0)},
    "mouse-tsl": {
        **_MOUSE,
        "schedule": Path(__file__).with_name("mouse_tsl.toml"),
        "drug_times_h": (0.2, 0.75, 24.0),
    },
    "mouse-free": {**_MOUSE, **_DOSE, "formulation": "free", "drug_times_h": (0.5, 4.0, 24.0)},
}


def find_sample_study(name: str) -> Mapping[str, Any]:
    """Settings of a sample study that differ from the defaults.

    Args:
        name: one of :data:`SAMPLE_STUDIES`.

    Raises:
        InputError: no sample study has the name.
    """
    if name not in SAMPLE_STUDIES:
        raise InputError(
            "unknown sample study", field="sample", found=name, expected=", ".join(SAMPLE_STUDIES)
        )
    return SAMPLE_STUDIES[name]
