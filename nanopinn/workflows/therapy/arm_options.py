"""Dose, heat and radiation as the command line writes them, read into the tables of a schedule file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from nanopinn.errors import InputError
from nanopinn.imaging.given import is_file
from nanopinn.imaging.io import read_sidecar, sidecar_path
from nanopinn.imaging.numbers import parse_number_list

_NUMBER = r"([-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)"
_DOSE = re.compile(rf"{_NUMBER}\s*(mg/m2|mg/m\^2|mg)")
_HEAT = re.compile(rf"{_NUMBER}:{_NUMBER}(?:@{_NUMBER})?(?:~{_NUMBER})?")
_FILE = re.compile(rf"(.+\.nii(?:\.gz)?)(?:@{_NUMBER})?")
_RADIATION = re.compile(rf"{_NUMBER}@{_NUMBER}")


def parse_dose(text: str) -> dict[str, float]:
    """``mg_per_m2`` of "50mg/m2", or ``amount_mg`` of "90mg".

    Raises:
        InputError: it is neither.
    """
    found = _DOSE.fullmatch(text.strip())
    if found is None:
        raise InputError(
            "the dose cannot be read",
            field="--dose",
            found=text,
            expected='"50mg/m2" or "90mg"',
            remedy="Amounts are in mg: usual doses of doxorubicin are 20 to 60 mg/m2.",
        )
    return {"amount_mg" if found[2] == "mg" else "mg_per_m2": float(found[1])}


def parse_heating(text: str) -> dict[str, Any]:
    """A heating of "42:60", "42:60@0.5~5" (degrees C:minutes@hours~ramp in minutes), or of a thermometry file, "T.nii.gz@0.5".

    Raises:
        InputError: it is none of these, or the file has no times.
    """
    if (file := _FILE.fullmatch(text.strip())) is not None:
        return {
            "file": file[1],
            "minutes": _thermometry_duration_min(Path(file[1])),
            "start_h": float(file[2] or 0),
        }
    found = _HEAT.fullmatch(text.strip())
    if found is None:
        raise InputError(
            "the heat cannot be read",
            field="--heat",
            found=text,
            expected='"42:60", "42:60@0.5~5" or a thermometry file',
            remedy="Write degrees C:minutes, then @ and the hour it begins, then ~ and the minutes of its ramps.",
        )
    T, minutes, start, ramp = (float(v or 0) for v in found.groups())
    return {"temperature_C": T, "minutes": minutes, "start_h": start, "ramp_min": ramp}


def _thermometry_duration_min(path: Path) -> float:
    """How long a thermometry lasts, by its sidecar."""
    if not is_file(path):
        raise InputError(
            "there is no such thermometry",
            file=path,
            field="--heat",
            found=str(path),
            remedy="Check the path.",
        )
    times = read_sidecar(path).get("VolumeTiming")
    listed = parse_number_list(times)
    if listed is None or not listed.size or not listed[-1] > 0:
        raise InputError(
            "the times of the thermometry cannot be used",
            file=sidecar_path(path),
            field="VolumeTiming",
            found=times,
            expected="increasing times, s after the heating's start",
        )
    return float(listed[-1]) / 60


def parse_fraction(text: str) -> dict[str, float]:
    """A fraction of "5@24", Gy@hours.

    Raises:
        InputError: it is something else.
    """
    found = _RADIATION.fullmatch(text.strip())
    if found is None:
        raise InputError(
            "the radiation cannot be read",
            field="--radiation",
            found=text,
            expected='"5@24", Gy@hours',
        )
    return {"dose_Gy": float(found[1]), "time_h": float(found[2])}
