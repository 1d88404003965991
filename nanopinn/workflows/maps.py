"""The imaging alone, from files to maps."""

from __future__ import annotations

from nanopinn.imaging.maps import ImagingInputs, ImagingMaps, make_maps
from nanopinn.progress import Progress, silent


def run_maps(inputs: ImagingInputs, *, progress: Progress | None = None) -> ImagingMaps:
    """Kinetic maps of one study, and its pH where one is given.

    Raises:
        InputError: something given cannot be used.
    """
    (progress or silent)("imaging", 0.0, {})
    return make_maps(inputs, need_ph=False)
