"""The worker process: it reads one request and writes progress and one reply, as JSON lines.

The work runs in a process, because torch would block the window from a thread for long times, and
because a process can be ended at once without leaving incomplete files. It is started before the
request, so that its imports are done in time.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from nanopinn.imaging.imaging_data import ImagingMaps
    from nanopinn.progress import Progress

SendMessage = Callable[[dict[str, Any]], None]


def main() -> None:
    """Wait for a request on standard input, run it, and reply on standard output."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # text that a library prints must not mix with the replies

    def send(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")

    send({"ready": True})
    line = sys.stdin.readline()
    if line:
        handle_request(json.loads(line), send)


def handle_request(request: dict[str, Any], send: SendMessage) -> None:
    """Run a request, and send its reply or the message of its error."""
    from nanopinn.napari_plugin.notify import format_for_panel

    try:
        send({"done": REQUEST_HANDLERS[request["kind"]](request, _progress(send))})
    except Exception as error:  # also a bug is reported as a message
        send({"failed": format_for_panel(error)})


def _progress(send: SendMessage) -> Progress:
    def show(stage: str, fraction: float, numbers: Mapping[str, float]) -> None:
        send(
            {
                "stage": stage,
                "fraction": fraction,
                "numbers": {k: float(v) for k, v in numbers.items()},
            }
        )

    return show


def run_maps_request(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Compute the maps; write the result folder and the voxel curves."""
    from nanopinn.imaging.imaging_data import ImagingInputs, format_imaging_summary
    from nanopinn.report.result_folder import write_imaging
    from nanopinn.studies.fit import run_maps

    inputs = ImagingInputs(**request["inputs"])
    imaging = run_maps(inputs, device=request.get("device", "auto"), progress=progress)
    progress("writing", 0.9, {})
    folder = write_imaging(request["out"], imaging, inputs)
    if imaging.has_dce:
        write_voxel_curves(Path(request["curves"]), imaging)
    return {
        "folder": str(folder),
        "summary": format_imaging_summary(imaging),
        "assumptions": list(imaging.assumptions),
    }


def run_fit_request(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Run a fit; write the result folder and the voxel curves."""
    from nanopinn.imaging.imaging_data import ImagingInputs
    from nanopinn.report.fit_summary import format_summary
    from nanopinn.settings import FitSettings
    from nanopinn.studies.fit import run_fit, write_fit

    study = run_fit(
        ImagingInputs(**request["inputs"]), FitSettings(**request["settings"]), progress=progress
    )
    progress("writing", 0.9, {})
    folder = write_fit(request["out"], study)
    write_voxel_curves(Path(request["curves"]), study.imaging)
    return {
        "folder": str(folder),
        "summary": format_summary(study.fit),
        "assumptions": list(study.fit.assumptions),
    }


def run_arms_request(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Compare treatment arms in the tumour of a fit; write the result folder."""
    from nanopinn.cli.option_syntax import parse_arm_entries
    from nanopinn.report.treatment_folder import write_comparison
    from nanopinn.report.treatment_summary import format_comparison
    from nanopinn.settings import ComparisonSettings
    from nanopinn.studies.arms.compare import compare_arms

    settings = ComparisonSettings(**parse_arm_entries(request["settings"]))
    found = compare_arms(settings, folder=request["from"], progress=progress)
    progress("writing", 0.9, {})
    folder = write_comparison(request["out"], found, {"arms": settings.model_dump()})
    return {
        "folder": str(folder),
        "summary": format_comparison(found),
        "assumptions": list(found.assumptions),
    }


def run_sample_request(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Simulate the sample study."""
    from nanopinn.phantoms.synthetic_study import make_phantom
    from nanopinn.settings import PhantomSettings

    return {
        "folder": str(
            make_phantom(
                Path(request["out"]), PhantomSettings(**request["settings"]), progress=progress
            )
        )
    }


def write_voxel_curves(folder: Path, imaging: ImagingMaps) -> None:
    """Write the curves that a click on a voxel shows: concentration, fit, status and input."""
    folder.mkdir(parents=True)
    np.save(folder / "measured.npy", imaging.concentration_mM.astype(np.float32))
    np.save(folder / "fitted.npy", imaging.kinetics.curves_mM.astype(np.float32))
    np.save(folder / "status.npy", imaging.status)
    np.savez(
        folder / "rest.npz",
        frame_times_s=imaging.frame_times_s,
        affine=imaging.affine,
        aif_times_s=imaging.aif.times_s,
        aif_plasma_mM=imaging.aif.plasma_mM,
    )


REQUEST_HANDLERS: dict[str, Callable[[dict[str, Any], Progress], dict[str, Any]]] = {
    "maps": run_maps_request,
    "fit": run_fit_request,
    "arms": run_arms_request,
    "sample": run_sample_request,
}

if __name__ == "__main__":
    main()
