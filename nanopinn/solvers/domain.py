"""The box that is solved: the tumour with a margin of normal tissue, inside or beyond the field of view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError


@dataclass(frozen=True)
class Domain:
    """An index box over an image; ``low`` may be negative and ``high`` may exceed the image."""

    image_shape: tuple[int, int, int]
    low: tuple[int, int, int]
    high: tuple[int, int, int]

    @classmethod
    def around(
        cls,
        mask: NDArray[np.bool_],
        spacing_m: tuple[float, ...],
        margin_m: float,
        cut: tuple[tuple[int, int], ...] = (),
    ) -> Domain:
        """The bounding box of a mask, widened by at least ``margin_m`` and two voxels on every side.

        Args:
            cut: faces of the image, as (axis, side) with side 0 or 1, at which the box ends with it.

        Raises:
            InputError: the mask is empty.
        """
        if not mask.any():
            raise InputError(
                "the tumour mask is empty", field="mask", remedy="Draw at least a few voxels."
            )
        low, high = [], []
        for axis, h in enumerate(spacing_m):
            where = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
            pad = max(2, int(np.ceil(margin_m / h)))
            low.append(0 if (axis, 0) in cut else int(where[0]) - pad)
            high.append(mask.shape[axis] if (axis, 1) in cut else int(where[-1]) + 1 + pad)
        return cls(mask.shape, (low[0], low[1], low[2]), (high[0], high[1], high[2]))

    @staticmethod
    def cut_faces(mask: NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
        """Faces of the image that cut a mask, as (axis, side)."""
        return tuple(
            (axis, side)
            for axis in range(3)
            for side in (0, 1)
            if mask.take(-side, axis=axis).any()
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells of the box."""
        x, y, z = (b - a for a, b in zip(self.low, self.high, strict=True))
        return x, y, z

    def _overlap(self) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        image, box = [], []
        for a, b, n in zip(self.low, self.high, self.image_shape, strict=True):
            start, stop = max(a, 0), min(b, n)
            image.append(slice(start, stop))
            box.append(slice(start - a, stop - a))
        return tuple(image), tuple(box)

    def take(self, values: NDArray[np.float64], fill: float) -> NDArray[np.float64]:
        """Cut the box out of an image ``(..., x, y, z)``; ``fill`` stands beyond the image."""
        image, box = self._overlap()
        out = np.full((*values.shape[:-3], *self.shape), fill, dtype=np.float64)
        out[..., box[0], box[1], box[2]] = values[..., image[0], image[1], image[2]]
        return out

    def put(self, values: NDArray[np.float64], fill: float = np.nan) -> NDArray[np.float64]:
        """Put the box's values ``(..., x, y, z)`` back into an image; ``fill`` stands outside the box."""
        image, box = self._overlap()
        out = np.full((*values.shape[:-3], *self.image_shape), fill, dtype=np.float64)
        out[..., image[0], image[1], image[2]] = values[..., box[0], box[1], box[2]]
        return out

    def refined(self, factor: int) -> Domain:
        """The same box over the image with every voxel cut into ``factor^3``."""

        def times(index: tuple[int, int, int]) -> tuple[int, int, int]:
            x, y, z = (factor * i for i in index)
            return x, y, z

        return Domain(times(self.image_shape), times(self.low), times(self.high))
