"""The imaging alone, from files to maps."""

from __future__ import annotations

from nanopinn.imaging.inputs import ImagingInputs
from nanopinn.imaging.maps import ImagingMaps, make_maps
from nanopinn.progress import Progress, ignore_progress
from nanopinn.workflows.device import choose_device


def run_maps(
    inputs: ImagingInputs, *, device: str = "auto", progress: Progress = ignore_progress
) -> ImagingMaps:
    """Kinetic maps of one study, and its pH where one is given.

    Args:
        device: auto, cpu or cuda[:N]; where the kinetics are fitted.

    Raises:
        InputError: something given cannot be used.
    """
    return make_maps(inputs, device=choose_device(device), progress=progress, require_ph=False)
