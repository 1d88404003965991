"""What no fit can start from: priors that contradict themselves, data that are no numbers or have no noise, times outside the scan."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.inference.observations import DrugObservation
from nanopinn.inference.problem import InverseProblem
from nanopinn.inference.unknowns import Unknown, UnknownSet
from nanopinn.parameters import PARAMETERS
from nanopinn.physics.model import SCALARS

#: Standard deviations of a prior that must leave something of the range in the table.
PRIOR_RANGE_SD = 1.96


def validate_problem(problem: InverseProblem) -> None:
    """Say what makes a problem impossible to fit, if anything does.

    Raises:
        InputError: naming the unknown or the observation.
    """
    validate_priors(problem.unknowns)
    for u in problem.unknowns.items:
        _validate_prior_range(u)
    _validate_curves(problem)
    for d in problem.drug:
        _validate_drug_image(d)


def validate_priors(unknowns: UnknownSet) -> None:
    """Priors that are none.

    Raises:
        InputError: an unknown stands twice.
    """
    twice = [name for name, n in Counter(unknowns.names).items() if n > 1]
    if twice:
        raise InputError("an unknown has two priors", field=twice[0], remedy="Keep one of them.")


def _validate_prior_range(u: Unknown) -> None:
    """A prior all of which lies outside the range of its row in the table."""
    row = PARAMETERS.get(SCALARS.get(u.name, ""))
    if row is None or u.name == "q":  # q is a product of two rows
        return
    low, high = u.estimate(u.prior_mean, u.prior_sd).interval(PRIOR_RANGE_SD)
    below = row.high is not None and low / u.per_unit > row.high
    above = row.low is not None and high / u.per_unit < row.low
    if below or above:
        raise InputError(
            "a prior contradicts the range of its parameter",
            field=f"prior of {u.name}",
            found=f"{low:.3g} to {high:.3g} {u.unit} (95 %)",
            expected=f"something within {_format_bound(row.low, u)} to {_format_bound(row.high, u)} {u.unit}",
            remedy="Correct the median or its unit.",
        )


def _format_bound(value: float | None, u: Unknown) -> str:
    return "any" if value is None else f"{value * u.per_unit:.3g}"


def _validate_curves(problem: InverseProblem) -> None:
    times, aif = problem.frame_times, problem.aif
    if not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
        raise InputError(
            "frame times must increase", field="VolumeTiming", expected="finite, increasing seconds"
        )
    spacing = float(np.diff(times).max()) if len(times) > 1 else 0.0
    if times[-1] > aif.times_s[-1] + spacing or times[-1] < aif.times_s[0]:
        raise InputError(
            "frames lie outside the time of the arterial input",
            field="--aif",
            found=f"frames to {times[-1]:g} s",
            expected=f"{aif.times_s[0]:g} to {aif.times_s[-1]:g} s",
            remedy="Measure the input as long as the scan.",
        )
    if not np.isfinite(aif.plasma_mM).all():
        raise InputError("the arterial input is not finite", field="--aif", expected="numbers")
    _validate_noise("contrast agent", problem.contrast.noise_sd)
    _validate_values("contrast agent", problem.contrast.measured)


def _validate_drug_image(d: DrugObservation) -> None:
    if not (np.isfinite(d.time_s) and d.time_s > 0):
        raise InputError(
            "a drug image is not of a time after the dose",
            field=f"TimeAfterDose of {d.quantity}",
            found=d.time_s,
            expected="above 0 s",
        )
    _validate_noise(d.name, d.noise_sd[d.voxels])
    _validate_values(d.name, d.measured[d.voxels])


def _validate_noise(name: str, sd: Tensor) -> None:
    bad = int((~(torch.isfinite(sd) & (sd > 0))).sum())
    if bad:
        raise InputError(
            "an observation without noise would count infinitely",
            field=f"noise of {name}",
            found=f"{bad} voxels with sd not above 0",
            expected="a positive standard deviation in every voxel used",
            remedy="State the noise, or leave these voxels out of the mask.",
        )


def _validate_values(name: str, values: Tensor) -> None:
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise InputError(
            "an observation is not finite",
            field=name,
            found=f"{bad} values NaN or infinite",
            expected="numbers in every voxel used",
            remedy="Leave these voxels out.",
        )
