"""An arterial input from a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.aif.curve import PlasmaCurve, plasma_from_blood
from nanopinn.imaging.table import read_table

Array = NDArray[np.float64]


def read_curve(path: Path, frame_times_s: Array, hematocrit: float) -> PlasmaCurve:
    """The curve of a TSV/CSV with ``time_s`` and one of ``plasma_mM``, ``blood_mM``.

    Raises:
        InputError: columns are missing, hold no numbers, or do not cover the scan.
    """
    t, c, blood = _columns(path)
    if len(t) < 3 or np.any(np.diff(t) <= 0) or not np.isfinite([t, c]).all():
        raise InputError(
            "times must increase and values be finite",
            file=path,
            field="time_s",
            found=f"{len(t)} rows",
            expected="3 rows or more, in order of time",
            remedy="Correct the table.",
        )
    if not c.max() > 0:
        raise InputError(
            "the arterial input never rises",
            file=path,
            field="blood_mM" if blood else "plasma_mM",
            found=f"maximum {c.max():g}",
            expected="a positive peak, in mM",
            remedy="Correct the table.",
        )
    # one frame may be missing at the end; beyond it there is nothing to convolve with
    latest = float(frame_times_s[-2])
    if t[0] >= latest or t[-1] < latest:
        raise InputError(
            "the arterial input does not cover the scan",
            file=path,
            field="time_s",
            found=f"{t[0]:g} to {t[-1]:g} s",
            expected=f"from before the bolus to {frame_times_s[-1]:g} s, on the clock of the frames",
            remedy="Extend the curve, or shift it to that clock.",
        )
    return PlasmaCurve(t, plasma_from_blood(c, hematocrit) if blood else c)


def _columns(path: Path) -> tuple[Array, Array, bool]:
    """Times, concentrations, and whether these are of whole blood."""
    table = read_table(path)
    kinds = [k for k in ("plasma_mM", "blood_mM") if k in table.header]
    if "time_s" not in table.header or len(kinds) != 1 or not table.rows:
        raise InputError(
            "the arterial input lacks its columns",
            file=path,
            field="header",
            found=", ".join(table.header) if table.header and table.rows else "no rows",
            expected="time_s and one of plasma_mM, blood_mM",
            remedy="Name the columns so.",
        )
    t, c = (
        table.numbers(k, "the arterial input holds something that is no number")
        for k in ("time_s", kinds[0])
    )
    return t, c, kinds[0] == "blood_mM"
