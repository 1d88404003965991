"""Where the arterial input comes from: a formula, a file, voxels that were drawn, or voxels that were found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.aif.artery import ArterialVoxels, find_artery, read_masked_artery
from nanopinn.imaging.aif.curve import PlasmaCurve, plasma_from_blood
from nanopinn.imaging.aif.file import read_curve
from nanopinn.imaging.aif.population import POPULATION_CURVES
from nanopinn.imaging.concentration import Concentration

Array = NDArray[np.float64]
AIF_NAMES = (*POPULATION_CURVES, "auto")
MASK = "mask:"


@dataclass(frozen=True)
class ArterialInput:
    """The plasma curve of a study.

    Attributes:
        voxels: where it was measured, None where it was not measured in this scan. assumptions: sentences.
    """

    curve: PlasmaCurve
    voxels: ArterialVoxels | None
    assumptions: tuple[str, ...]


def is_measured_in_scan(spec: str) -> bool:
    """Whether the input is taken from the scan itself."""
    return spec == "auto" or spec.startswith(MASK)


def list_aif_files(spec: str) -> list[Path]:
    """Files that a choice of arterial input reads."""
    if spec in AIF_NAMES:
        return []
    return [Path(spec.removeprefix(MASK))]


def load_aif(
    spec: str,
    *,
    frame_times_s: Array,
    bolus_arrival_s: float,
    hematocrit: float,
    dose_mmol_per_kg: float = 0.1,
    blood: Concentration | None = None,
    affine: Array | None = None,
) -> ArterialInput:
    """The arterial input of ``spec``: a population curve by name, a TSV/CSV file, ``mask:FILE`` or ``auto``.

    A population curve is evaluated by its formula on a fine grid from the arrival on; a file's times are on
    the clock of the scan.

    Args:
        blood: the scan as concentration in blood, for ``mask:FILE`` and ``auto``.
        affine: of the scan, for ``mask:FILE``.

    Raises:
        InputError: the choice is unknown, its file cannot be used, or no artery is found.
    """
    t = np.asarray(frame_times_s, dtype=np.float64)
    if spec in POPULATION_CURVES:
        found = POPULATION_CURVES[spec]
        curve = found.plasma(
            arrival_s=bolus_arrival_s,
            until_s=float(t[-1]),
            hematocrit=hematocrit,
            dose_mmol_per_kg=dose_mmol_per_kg,
        )
        note = f"The arterial input is {found.source}, not this subject's; its scale carries over to Ktrans, ve and vp."
        return ArterialInput(curve, None, (note,))
    if is_measured_in_scan(spec):
        assert blood is not None
        assert affine is not None
        voxels = (
            find_artery(blood, t)
            if spec == "auto"
            else read_masked_artery(Path(spec.removeprefix(MASK)), blood, t, affine)
        )
        curve = PlasmaCurve(t, plasma_from_blood(voxels.blood_mM, hematocrit))
        return ArterialInput(curve, voxels, voxels.notes())
    if not Path(spec).is_file():
        raise InputError(
            "no such arterial input",
            file=spec,
            field="--aif",
            found=Path(spec).name,
            expected=f"{', '.join(AIF_NAMES)}, mask:FILE, or a TSV/CSV file",
            remedy="Check the path.",
        )
    return ArterialInput(read_curve(Path(spec), t, hematocrit), None, ())
