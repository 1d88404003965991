"""Arms of treatment as layers: one tumour beside the other, on one slider, in one colour scale."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanopinn.napari_plugin.geometry import layer_transform, spacing_mm
from nanopinn.napari_plugin.layers import LayerData, contrast_limits, map_layer, stack_layer

#: What can be shown of the arms, where it lies in an arm's folder, and words for it; the first is shown first.
QUANTITIES = {
    "fields/intracellular": "drug in cells",
    "fields/free": "free drug",
    "fields/encapsulated": "drug in carriers",
    "maps/lethal_beyond_peak": "lethal fraction far from vessels, peak law",
    "maps/lethal_beyond_rate": "lethal fraction far from vessels, rate law",
    "maps/lethal_beyond_area": "lethal fraction far from vessels, area law",
    "maps/lethal_all_peak": "lethal fraction of all cells, peak law",
}
#: From one arm to the next, in widths of the image.
STEP = 1.1


def is_comparison(folder: Path) -> bool:
    """Whether a folder is of several arms."""
    return (folder / "comparison.json").is_file()


def comparison_layer_readers(folder: Path) -> list[Callable[[], LayerData]]:
    """What reads each layer of a comparison, quantity by quantity, the first one on top."""
    arms = list(json.loads((folder / "comparison.json").read_text(encoding="utf-8"))["arms"])
    found: list[Callable[[], LayerData]] = []
    for quantity in reversed(QUANTITIES):
        there = [a for a in arms if (folder / a / f"{quantity}.nii.gz").is_file()]
        found += [
            partial(_layer, folder, arm, arms.index(arm), quantity, tuple(there)) for arm in there
        ]
    return found


def _layer(
    folder: Path, arm: str, place: int, quantity: str, together: tuple[str, ...]
) -> LayerData:
    """One quantity of one arm, in the colour scale that all arms share."""
    from nanopinn.imaging.io import read_array, read_sidecar

    path = folder / arm / f"{quantity}.nii.gz"
    values, affine, _ = read_array(path)
    side = read_sidecar(path)
    unit, first = side.get("Unit", ""), quantity == next(iter(QUANTITIES))
    known = {
        "folder": str(folder),
        "file": str(path),
        "arm": arm,
        "place": place,
        "shows": quantity,
        "description": side["Description"],
    }
    name = f"{arm}: {QUANTITIES[quantity]}"
    if values.ndim == 4:
        at = [f"{t / 3600:g} h after the dose" for t in side["FrameTimes"]]
        made = stack_layer(
            np.moveaxis(values, -1, 0),
            affine,
            name,
            "time after dose",
            at,
            unit=unit,
            visible=first,
            **known,
        )
    else:
        made = map_layer(values, affine, name, unit, visible=first, **known)
    looks = made[1]
    everything = [
        values,
        *(read_array(folder / a / f"{quantity}.nii.gz")[0] for a in together if a != arm),
    ]
    whole = quantity.startswith("maps/lethal")
    looks["contrast_limits"] = (
        (0.0, 1.0)
        if whole
        else contrast_limits(np.concatenate([v.ravel() for v in everything]), True)
    )
    looks["translate"] = (
        *looks["translate"][:-1],
        looks["translate"][-1] + place * STEP * _width(values.shape, affine),
    )
    return made


def _width(shape: tuple[int, ...], affine: NDArray[Any]) -> float:
    """Of the image along x, mm."""
    return float(shape[0] * spacing_mm(affine)[0])


@dataclass(frozen=True)
class ClusterCurves:
    """Penetration curves of the groups of voxels of a comparison.

    Attributes:
        number: group of every voxel ``(x, y, z)``, -1 outside. distance_um: ``(d,)``.
        curves: by arm, median, low and high ``(group, d, 3)``, ng/1e5 cells.
    """

    affine: NDArray[np.float64]
    labels: NDArray[np.int64]
    distance_um: NDArray[np.float64]
    curves: dict[str, NDArray[np.float64]]

    @classmethod
    def of(cls, folder: Path) -> ClusterCurves:
        """Of a comparison's folder.

        Raises:
            InputError: its volume of groups is broken.
        """
        from nanopinn.imaging.given import read_text
        from nanopinn.imaging.io import read_array

        values, affine, _ = read_array(folder / "groups.nii.gz")
        heads, *rows = [
            line.split("\t") for line in read_text(folder / "penetration_groups.tsv").splitlines()
        ]
        table = np.array(rows, dtype=float)
        groups = int(table[:, 0].max()) + 1
        table = table.reshape(groups, -1, len(heads))
        arms = [h.removesuffix("_median") for h in heads if h.endswith("_median")]
        curves = {arm: table[:, :, 2 + 3 * i : 5 + 3 * i] for i, arm in enumerate(arms)}
        return cls(affine, values.round().astype(np.int64), table[0, :, 1], curves)

    def voxel_at(self, position: Any) -> tuple[int, int, int] | None:
        """Voxel at a position in the world, in whichever arm's picture; None beside the tumour."""
        place = layer_transform(self.affine)
        z, y, x = (np.asarray(position, dtype=float)[-3:] - place["translate"]) / np.asarray(
            place["scale"]
        )
        if not np.isfinite([x, y, z]).all():
            return None
        x = (x + 0.5) % (STEP * self.labels.shape[0]) - 0.5
        voxel = int(np.round(x)), int(np.round(y)), int(np.round(z))
        inside = all(0 <= i < n for i, n in zip(voxel, self.labels.shape, strict=True))
        return voxel if inside and self.labels[voxel] >= 0 else None
