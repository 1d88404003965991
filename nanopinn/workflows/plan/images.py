"""Drug images that are planned, as ``QUANTITY@HOURS[:NOISE]``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.drug import QUANTITIES, DRUG_UNITS, DrugImage
from nanopinn.inference.observations import DrugObservation, Quantity
from nanopinn.inference.problem import Fields, InverseProblem

Array = NDArray[np.float64]

assert set(QUANTITIES) == set(get_args(Quantity))

#: Candidates where none are given: what two kinds of label show, from the first hour to the third day.
CANDIDATE_QUANTITIES: tuple[Quantity, ...] = ("encapsulated", "released")
CANDIDATE_HOURS = (0.5, 1.0, 2.0, 6.0, 12.0, 24.0, 48.0, 72.0)

_FORM = "QUANTITY@HOURS or QUANTITY@HOURS:NOISE, such as released@24:0.05 or released@24:0.3ug/mL"
_LATEST_H = 60 * 24.0


@dataclass(frozen=True)
class PlannedImage:
    """A drug image that would be taken.

    Attributes:
        time_s: after the dose. noise: sd of a voxel, kg/m3; or, if ``relative``, over the image's largest value in the tumour.
    """

    quantity: Quantity
    time_s: float
    noise: float
    relative: bool = True

    @property
    def name(self) -> str:
        return f"{self.quantity} at {self.time_s / 3600:g} h"

    def to_blank_image(self, shape: tuple[int, ...]) -> DrugImage:
        """An image without content or noise yet, for a problem to be posed with."""
        return DrugImage(np.zeros(shape), self.time_s, self.quantity, 1.0)

    def noise_sd(self, image: torch.Tensor) -> float:
        """Noise of a voxel of the image that is expected, ``(n,)`` in the tumour, kg/m3."""
        return self.noise * float(image.max()) if self.relative else self.noise


def parse_planned_image(text: str, noise: float, field: str) -> PlannedImage:
    """Read ``QUANTITY@HOURS[:NOISE]``; NOISE is a share of the largest value (0.05, 5%) or has a unit (0.3ug/mL).

    Args:
        noise: relative, where none is given. field: the option, for errors.

    Raises:
        InputError: it is not of that form, the quantity is unknown, it is before the dose, or it has no noise.
    """
    parts = re.fullmatch(r"([^@:]+)@([^@:]+?)h?(?::(.+))?", text.strip())
    if parts is None:
        raise InputError("not a planned drug image", field=field, found=text, expected=_FORM)
    quantity, hours, noise_text = parts.groups()
    if quantity not in QUANTITIES:
        raise InputError(
            "the quantity of an image is unknown",
            field=field,
            found=quantity,
            expected=" or ".join(QUANTITIES),
        )
    t = _parse_finite_number(hours)
    if t is None or not 0 < t <= _LATEST_H:
        problem = (
            "an image lies before the dose, at it, or too late"
            if t is not None
            else "the time of an image is no number"
        )
        raise InputError(
            problem,
            field=field,
            found=text,
            expected=f"hours after the dose, above 0 and up to {_LATEST_H:g}",
        )
    level, relative = (noise, True) if noise_text is None else _parse_noise(noise_text, text, field)
    return PlannedImage(quantity, 3600.0 * t, level, relative)  # type: ignore[arg-type]


def _parse_noise(noise_text: str, text: str, field: str) -> tuple[float, bool]:
    parts = re.fullmatch(r"\s*([-+0-9.eE]+)\s*(.*?)\s*", noise_text)
    level, unit = (
        (None, "") if parts is None else (_parse_finite_number(parts.group(1)), parts.group(2))
    )
    if level is None or unit not in ("", "%", *DRUG_UNITS):
        raise InputError(
            "the noise of an image cannot be read",
            field=field,
            found=text,
            expected=f"{_FORM}; units: {', '.join(DRUG_UNITS)}",
        )
    if level <= 0:
        raise InputError(
            "an image has no noise",
            field=field,
            found=text,
            expected="a positive standard deviation",
            remedy="No image is without; one at its detection limit has about that as its noise.",
        )
    if unit in DRUG_UNITS:
        return level * DRUG_UNITS[unit], False
    share = level / 100 if unit == "%" else level
    if share > 1:
        raise InputError(
            "the noise of an image exceeds its largest value",
            field=field,
            found=text,
            expected="a share up to 1, or a unit",
            remedy="5 per cent is 0.05 or 5%.",
        )
    return share, True


def _parse_finite_number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if np.isfinite(found) else None


def default_candidates(taken: Sequence[PlannedImage], noise: float) -> tuple[PlannedImage, ...]:
    """Every default candidate that is not in the protocol already."""
    have = {i.name for i in taken}
    every = (
        PlannedImage(q, 3600.0 * h, noise) for q in CANDIDATE_QUANTITIES for h in CANDIDATE_HOURS
    )
    return tuple(i for i in every if i.name not in have)


def expected_observations(
    problem: InverseProblem, fields: Fields, images: Sequence[PlannedImage]
) -> tuple[DrugObservation, ...]:
    """The last drug images of a problem as they are expected to come out, each with its noise."""
    assert fields.pools is not None
    taken = len(problem.drug) - len(images)
    expected = list(problem.drug[:taken])
    for d, planned in zip(problem.drug[taken:], images, strict=True):
        image = d.predict(
            fields.pools[problem.node_index(d)], problem.setting.maps, problem.plasma_at(d.time_s)
        )
        noise = torch.full_like(image, planned.noise_sd(image[problem.setting.maps.tumour > 0.5]))
        expected.append(DrugObservation(d.time_s, d.quantity, image, noise, noise, d.voxels))
    return tuple(expected)
