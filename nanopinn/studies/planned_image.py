"""Drug images that would be taken, as ``QUANTITY@HOURS[:NOISE]``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch

from nanopinn.errors import InputError
from nanopinn.imaging.drug_image import DRUG_QUANTITIES, DRUG_UNITS, DrugImage
from nanopinn.inference.observations import Quantity
from nanopinn.parameters import HOUR

assert set(DRUG_QUANTITIES) == set(get_args(Quantity))

#: Candidates where none are given: what two kinds of label show, from 0.5 to 72 h.
CANDIDATE_QUANTITIES: tuple[Quantity, ...] = ("encapsulated", "released")
CANDIDATE_HOURS = (0.5, 1.0, 2.0, 6.0, 12.0, 24.0, 48.0, 72.0)

_FORM = "QUANTITY@HOURS or QUANTITY@HOURS:NOISE, such as released@24:0.05 or released@24:0.3ug/mL"
_LATEST_H = 60 * 24.0


@dataclass(frozen=True)
class PlannedImage:
    """A drug image that would be taken.

    Attributes:
        quantity: what the image shows.
        time_s: after the dose, s.
        noise: sd of a voxel, kg/m3, or relative to the largest value of the image in the tumour.
        relative: whether ``noise`` is relative.
    """

    quantity: Quantity
    time_s: float
    noise: float
    relative: bool = True

    @property
    def name(self) -> str:
        return f"{self.quantity} at {self.time_s / HOUR:g} h"

    def to_blank_image(self, shape: tuple[int, ...]) -> DrugImage:
        """An image of zeros, from which the problem is posed.

        Args:
            shape: of the scan.
        """
        return DrugImage(np.zeros(shape), self.time_s, self.quantity, 1.0)

    def noise_sd(self, image: torch.Tensor) -> float:
        """Noise sd of a voxel, kg/m3.

        Args:
            image: expected values in the tumour, ``(n,)``, kg/m3.
        """
        return self.noise * float(image.max()) if self.relative else self.noise


def parse_planned_image(text: str, noise: float, field: str) -> PlannedImage:
    """Parse ``QUANTITY@HOURS[:NOISE]``.

    Args:
        text: NOISE is a share of the largest value (0.05, 5%) or has a unit (0.3ug/mL).
        noise: relative noise where the text gives none.
        field: name of the setting, for errors.

    Raises:
        InputError: the text has another form, the quantity is unknown, the time is not after the
            dose, or the noise is not positive.
    """
    parts = re.fullmatch(r"([^@:]+)@([^@:]+?)h?(?::(.+))?", text.strip())
    if parts is None:
        raise InputError("not a planned drug image", field=field, found=text, expected=_FORM)
    quantity, hours, noise_text = parts.groups()
    if quantity not in DRUG_QUANTITIES:
        raise InputError(
            "the quantity of an image is unknown",
            field=field,
            found=quantity,
            expected=" or ".join(DRUG_QUANTITIES),
        )
    t = _parse_finite_number(hours)
    if t is None or not 0 < t <= _LATEST_H:
        problem = (
            "the time of an image is not after the dose or too late"
            if t is not None
            else "the time of an image is not a number"
        )
        raise InputError(
            problem,
            field=field,
            found=text,
            expected=f"hours after the dose, above 0 and up to {_LATEST_H:g}",
        )
    level, relative = (noise, True) if noise_text is None else _parse_noise(noise_text, text, field)
    return PlannedImage(quantity, HOUR * t, level, relative)  # type: ignore[arg-type]


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
            remedy="Give the noise; at the detection limit of an image it is about that limit.",
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
            remedy="Write 5 per cent as 0.05 or 5%.",
        )
    return share, True


def _parse_finite_number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if np.isfinite(found) else None


def default_candidates(planned: Sequence[PlannedImage], noise: float) -> tuple[PlannedImage, ...]:
    """Every default candidate that is not part of the protocol.

    Args:
        planned: images of the protocol.
        noise: relative noise of the candidates.
    """
    have = {i.name for i in planned}
    every = (
        PlannedImage(q, HOUR * h, noise) for q in CANDIDATE_QUANTITIES for h in CANDIDATE_HOURS
    )
    return tuple(i for i in every if i.name not in have)
