"""Coverage, power and bias of fits of many phantoms, whose true parameters are known."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanopinn.errors import InputError

#: Half width of the central 90 % interval of a normal distribution, in standard deviations.
Z90 = 1.6449


@dataclass(frozen=True)
class ParameterRecovery:
    """One estimate of a parameter whose true value is known.

    All numbers are in the coordinate of the prior: the logarithm if the prior is log-normal.

    Attributes:
        unknown: Name of the parameter.
        error: Estimate minus true value.
        sd: Posterior standard deviation.
        prior_sd: Prior standard deviation.
        informed: Whether the images inform the parameter.
    """

    unknown: str
    error: float
    sd: float
    prior_sd: float
    informed: bool

    @property
    def z(self) -> float:
        """Error over the posterior standard deviation."""
        return self.error / self.sd

    @property
    def covered(self) -> bool:
        """Whether the central 90 % interval holds the true value."""
        return abs(self.z) < Z90


@dataclass(frozen=True)
class Coverage:
    """Recovery of one parameter over many phantoms.

    Attributes:
        unknown: Name of the parameter.
        fits: Number of fits.
        informed: Fraction of fits in which the images inform it: the power of the protocol.
        covered: Fraction of those whose 90 % interval holds the true value; NaN if there are none.
        covered_all: The same fraction of all fits.
        contraction: Median of 1 - sd/prior sd.
        bias_sd: Mean of error/sd; 0 if the estimates are unbiased.
        rms_sd: Root mean square of error/sd; 1 if the intervals are correct.
        median_error: Median error, in the coordinate of the prior.
        median_absolute_error: Median absolute error, in the coordinate of the prior.
    """

    unknown: str
    fits: int
    informed: float
    covered: float
    covered_all: float
    contraction: float
    bias_sd: float
    rms_sd: float
    median_error: float
    median_absolute_error: float


def interval_coverage(found: Sequence[ParameterRecovery]) -> tuple[Coverage, ...]:
    """Summarise the recovery of each parameter, in the order of their first appearance."""
    names = dict.fromkeys(f.unknown for f in found)
    return tuple(
        _summarise_coverage(name, [f for f in found if f.unknown == name]) for name in names
    )


def _summarise_coverage(name: str, found: Sequence[ParameterRecovery]) -> Coverage:
    z, error = np.array([f.z for f in found]), np.array([f.error for f in found])
    covered_when_informed = [f.covered for f in found if f.informed]
    return Coverage(
        name,
        len(found),
        informed=len(covered_when_informed) / len(found),
        covered=float(np.mean(covered_when_informed)) if covered_when_informed else math.nan,
        covered_all=float(np.mean([f.covered for f in found])),
        contraction=float(np.median([1 - f.sd / f.prior_sd for f in found])),
        bias_sd=float(z.mean()),
        rms_sd=float(np.sqrt((z**2).mean())),
        median_error=float(np.median(error)),
        median_absolute_error=float(np.median(np.abs(error))),
    )


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a proportion, 95 % by default.

        (p + z^2/2n -+ z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n),    p = successes/n

    Args:
        successes: Number of successes.
        trials: Number of trials n.
        z: Half width in standard deviations of a normal distribution.

    References:
        Wilson 1927, doi:10.1080/01621459.1927.10502953.
    """
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    centre = share + z**2 / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return (centre - half) / (1 + z**2 / trials), (centre + half) / (1 + z**2 / trials)


def read_parameter_recovery(result: Path, phantom: Path) -> tuple[ParameterRecovery, ...]:
    """Compare the estimates in a result folder with the true values of the phantom.

    Args:
        result: Result folder of the fit.
        phantom: Folder of the synthetic study, with its ``truth``.

    Raises:
        InputError: One of the folders cannot be read.
    """
    from nanopinn.inference.unknowns import scalar_unknowns

    per_unit = {u.name: u.per_unit for u in scalar_unknowns()}
    try:
        truth = json.loads((phantom / "truth" / "parameters.json").read_text(encoding="utf-8"))[
            "scalars_SI"
        ]
        rows = json.loads((result / "parameters.json").read_text(encoding="utf-8"))["parameters"]
        return tuple(
            _recovery_from_row(r, truth[r["name"]] * per_unit[r["name"]])
            for r in rows
            if r["name"] in truth
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            "not a fit of a phantom",
            file=result,
            found=f"{type(error).__name__}: {error}",
            expected="a result folder, and the folder of a phantom with its truth",
        ) from error


def _recovery_from_row(row: dict[str, float], truth: float) -> ParameterRecovery:
    median = row["posterior_median"]
    error = math.log(median / truth) if row["scale"] == "log" else median - truth
    return ParameterRecovery(
        str(row["name"]), error, row["posterior_sd"], row["prior_sd"], row["informed"] == "yes"
    )


def study_coverage(folder: Path) -> dict[str, tuple[Coverage, ...]]:
    """Compute the coverage of a phantom study: of all phantoms, and of each length scale.

    Args:
        folder: Folder with ``work/l<length>_seed<seed>/{phantom,fit}``.

    Raises:
        InputError: No phantom in it has a fit.
    """
    results = sorted(
        p for p in (folder / "work").glob("l*_seed*/fit") if (p / "parameters.json").is_file()
    )
    if not results:
        raise InputError(
            "no fitted phantom is found",
            file=folder,
            expected="work/l<length>_seed<seed>/fit",
            remedy="Run the phantom study first.",
        )
    found = {p.parent.name: read_parameter_recovery(p, p.parent / "phantom") for p in results}
    lengths = sorted({name.partition("_")[0] for name in found})
    parts = {
        "all": found,
        **{k: {n: f for n, f in found.items() if n.startswith(f"{k}_")} for k in lengths},
    }
    return {
        name: interval_coverage([f for fits in part.values() for f in fits])
        for name, part in parts.items()
    }
