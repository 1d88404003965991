"""Arterial input: a population curve by its formula, or a measured curve from a file."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.io import read_text
from nanopinn.parameters import value

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PlasmaCurve:
    """Contrast agent in plasma, piecewise linear between its times; zero before the first.

    Attributes:
        times_s: ``(n,)`` on the clock of the scan. plasma_mM: ``(n,)``.
    """

    times_s: Array
    plasma_mM: Array

    def delayed(self, seconds: float) -> PlasmaCurve:
        """The same curve later (or, negative, earlier)."""
        return replace(self, times_s=self.times_s + seconds)


def parker(t: Array) -> Array:
    """Population curve in whole blood, mM, ``t`` seconds after arrival (Parker 2006, MRM 56:993).

    Two Gaussians and an exponential under a sigmoid; zero before arrival.
    """
    arrived = np.asarray(t, dtype=np.float64) >= 0
    t = np.where(arrived, t, 0.0)
    peaks = sum(
        value(f"AIF_A{i}") / (value(f"AIF_s_{i}") * np.sqrt(2 * np.pi))
        * np.exp(-((t - value(f"AIF_T_{i}")) ** 2) / (2 * value(f"AIF_s_{i}") ** 2))
        for i in (1, 2)
    )  # fmt: skip
    tail = value("AIF_exp_alpha") * np.exp(-value("AIF_exp_beta") * t)
    tail = tail / (1 + np.exp(-value("AIF_exp_s") * (t - value("AIF_exp_tau"))))
    return np.where(arrived, peaks + tail, 0.0)


def plasma_from_blood(blood_mM: Array, hematocrit: float) -> Array:
    """The agent stays out of red cells: plasma = blood / (1 - Hct)."""
    return blood_mM / (1 - hematocrit)


def load_aif(spec: str, *, frame_times_s: Array, bolus_arrival_s: float, hematocrit: float) -> PlasmaCurve:
    """The plasma curve of ``spec``: ``parker``, or a TSV/CSV with ``time_s`` and ``plasma_mM`` or ``blood_mM``.

    A population curve is evaluated by its formula on a fine grid from the arrival on; a file's times are on
    the clock of the scan.

    Raises:
        InputError: the file cannot be used.
    """
    if spec == "parker":
        t = _fine_grid(max(float(frame_times_s[-1]) - bolus_arrival_s, 0.0) + 60.0)
        return PlasmaCurve(t + bolus_arrival_s, plasma_from_blood(parker(t), hematocrit))
    return _from_file(Path(spec), np.asarray(frame_times_s, dtype=np.float64), hematocrit)


def _fine_grid(span_s: float) -> Array:
    """Times between which Parker's curve is straight to 1e-4 of its peak (held by a test)."""
    pieces = [np.arange(0.0, 45.0, 0.09), np.arange(45.0, 120.0, 0.5), np.arange(120.0, span_s + 4.0, 2.0)]
    return np.concatenate(pieces)


def _from_file(path: Path, frame_times_s: Array, hematocrit: float) -> PlasmaCurve:
    if not path.is_file():
        raise InputError(
            "no such arterial input", file=path, field="--aif", found=path.name,
            expected="parker, or a TSV/CSV file", remedy="Check the path.",
        )  # fmt: skip
    t, c, blood = _columns(path)
    if len(t) < 3 or np.any(np.diff(t) <= 0) or not np.isfinite([t, c]).all():
        raise InputError(
            "times must increase and values be finite", file=path, field="time_s", found=f"{len(t)} rows",
            expected="3 rows or more, in order of time", remedy="Correct the table.",
        )  # fmt: skip
    if not c.max() > 0:
        raise InputError(
            "the arterial input never rises", file=path, field="blood_mM" if blood else "plasma_mM",
            found=f"maximum {c.max():g}", expected="a positive peak, in mM", remedy="Correct the table.",
        )  # fmt: skip
    # one frame may be missing at the end; beyond it there is nothing to convolve with
    latest = float(frame_times_s[-2])
    if t[0] >= latest or t[-1] < latest:
        raise InputError(
            "the arterial input does not cover the scan", file=path, field="time_s",
            found=f"{t[0]:g} to {t[-1]:g} s",
            expected=f"from before the bolus to {frame_times_s[-1]:g} s, on the clock of the frames",
            remedy="Extend the curve, or shift it to that clock.",
        )  # fmt: skip
    return PlasmaCurve(t, plasma_from_blood(c, hematocrit) if blood else c)


def _columns(path: Path) -> tuple[Array, Array, bool]:
    """Times, concentrations, and whether these are of whole blood."""
    text = read_text(path)
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t" if "\t" in text.split("\n")[0] else ","))
    header = [k for k in (rows[0] if rows else {}) if k is not None]
    kinds = [k for k in ("plasma_mM", "blood_mM") if k in header]
    if "time_s" not in header or len(kinds) != 1:
        raise InputError(
            "the arterial input lacks its columns", file=path, field="header", found=", ".join(header) or "no rows",
            expected="time_s and one of plasma_mM, blood_mM", remedy="Name the columns so.",
        )  # fmt: skip
    try:
        t, c = (np.array([float(r[k]) for r in rows]) for k in ("time_s", kinds[0]))
    except (TypeError, ValueError) as error:
        raise InputError(
            "the arterial input holds something that is no number", file=path, field=f"time_s, {kinds[0]}",
            found=str(error), expected="decimal numbers", remedy="Correct the table.",
        ) from error  # fmt: skip
    return t, c, kinds[0] == "blood_mM"
