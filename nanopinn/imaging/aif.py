"""Arterial input: a population curve by its formula, or a measured curve from a file."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
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
    t = np.asarray(t, dtype=np.float64)
    peaks = sum(
        value(f"AIF_A{i}") / (value(f"AIF_s_{i}") * np.sqrt(2 * np.pi))
        * np.exp(-((t - value(f"AIF_T_{i}")) ** 2) / (2 * value(f"AIF_s_{i}") ** 2))
        for i in (1, 2)
    )  # fmt: skip
    tail = value("AIF_exp_alpha") * np.exp(-value("AIF_exp_beta") * t)
    tail = tail / (1 + np.exp(-value("AIF_exp_s") * (t - value("AIF_exp_tau"))))
    return np.where(t >= 0, peaks + tail, 0.0)


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
    last = float(frame_times_s[-1])
    if spec == "parker":
        span = max(last - bolus_arrival_s, 1.0) + 60.0
        t = np.concatenate([np.arange(0.0, min(120.0, span), 0.25), np.arange(min(120.0, span), span + 2.0, 2.0)])
        return PlasmaCurve(t + bolus_arrival_s, plasma_from_blood(parker(t), hematocrit))
    return _from_file(Path(spec), last, hematocrit)


def _from_file(path: Path, last_frame: float, hematocrit: float) -> PlasmaCurve:
    if not path.is_file():
        raise InputError(
            "no such arterial input",
            file=path,
            field="--aif",
            expected="parker, or a TSV/CSV file",
            remedy="Check the path.",
        )
    text = path.read_text(encoding="utf-8-sig")
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t" if "\t" in text.split("\n")[0] else ","))
    columns = set(rows[0]) if rows else set()
    kind = next((c for c in ("plasma_mM", "blood_mM") if c in columns), None)
    if "time_s" not in columns or kind is None:
        raise InputError(
            "the arterial input lacks its columns", file=path, field="header", found=", ".join(sorted(columns)),
            expected="time_s and one of plasma_mM, blood_mM",
        )  # fmt: skip
    try:
        t, c = (np.array([float(r[k]) for r in rows]) for k in ("time_s", kind))
    except (TypeError, ValueError) as error:
        raise InputError("the arterial input holds something that is no number", file=path) from error
    if len(t) < 3 or np.any(np.diff(t) <= 0) or not np.isfinite(c).all():
        raise InputError(
            "times must increase and values be finite", file=path, field="time_s", expected="3 rows or more"
        )
    if t[0] >= last_frame:
        raise InputError(
            "the arterial input starts after the last frame",
            file=path,
            field="time_s",
            found=t[0],
            expected=f"< {last_frame:g}",
        )
    return PlasmaCurve(t, plasma_from_blood(c, hematocrit) if kind == "blood_mM" else c)
