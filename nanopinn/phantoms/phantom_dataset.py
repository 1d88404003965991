"""BIDS datasets of synthetic subjects."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanopinn.cohort.bids_derivatives import write_raw_description
from nanopinn.errors import InputError
from nanopinn.io.output import atomic_output_folder
from nanopinn.io.volumes import sidecar_path, write_bytes, write_json
from nanopinn.phantoms.scan_simulation import VFA_DEG
from nanopinn.phantoms.synthetic_study import make_phantom
from nanopinn.progress import Progress, ignore_progress
from nanopinn.report.result_files import format_tsv
from nanopinn.settings import PhantomSettings

#: Folder of the masks, which are derivatives in BIDS; those of a phantom are exact.
MASKS = Path("derivatives", "masks")


def make_phantom_dataset(
    out: Path, count: int, settings: PhantomSettings, *, progress: Progress = ignore_progress
) -> Path:
    """Write a BIDS dataset of synthetic subjects.

    The truth and the Z-spectra of every subject are in ``sourcedata/sub-<label>``, which no fit
    reads.

    Args:
        out: a folder that does not exist yet.
        count: number of subjects, 1 to 9999.
        settings: of the phantoms; seeds count up from ``settings.seed``.
        progress: called as ``progress(stage, share done in 0..1, numbers)``.

    Returns:
        The folder.

    Raises:
        InputError: the count is out of range.
        OutputError: the folder exists, or cannot be written.
    """
    from nanopinn import __version__

    if not 1 <= count <= 9999:
        raise InputError(
            "the number of subjects is out of range",
            field="count",
            found=count,
            expected="1 to 9999",
        )
    with atomic_output_folder(Path(out), overwrite=False) as part:
        rows = [_write_subject(part, i, count, settings, progress) for i in range(count)]
        write_bytes(part / "participants.tsv", format_tsv(rows))
        columns = {"seed": {"Description": "of anatomy, parameters and noise"}}
        write_json(part / "participants.json", columns)
        write_bytes(
            part / "README",
            b"Synthetic tumours simulated by nanopinn; the truth is in sourcedata.\n"
            b"No person was scanned.\n",
        )
        named = ((part, "nanopinn phantoms"), (part / MASKS, "true masks of nanopinn phantoms"))
        for folder, name in named:
            write_raw_description(folder, name, "nanopinn phantom", __version__)
    progress("done", 1.0, {})
    return Path(out)


def _write_subject(
    part: Path, i: int, count: int, settings: PhantomSettings, progress: Progress
) -> dict[str, Any]:
    """Write the files of one subject; its row of the participants."""
    sub, seed = f"sub-{i + 1:0{max(2, len(str(count)))}d}", settings.seed + i
    progress(f"subject {i + 1} of {count}", i / count, {})
    made = make_phantom(part / "sourcedata" / sub, settings.model_copy(update={"seed": seed}))
    for old, new in _bids_names(made, sub):
        for ending in (".nii.gz", ".json"):
            source, target = made / f"{old}{ending}", part / f"{new}{ending}"
            if source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.rename(source, target)
    return {"participant_id": sub, "seed": seed}


def _bids_names(made: Path, sub: str) -> Iterator[tuple[str, str]]:
    """Name in the study and path in the dataset of every image that is an input."""
    yield "dce", f"{sub}/perf/{sub}_dce"
    yield "ph", f"{sub}/cest/{sub}_pHmap"
    yield "mask", f"{MASKS.as_posix()}/{sub}/anat/{sub}_label-tumour_mask"
    for i, flip in enumerate(VFA_DEG, 1):
        yield f"vfa_fa{flip:02.0f}", f"{sub}/anat/{sub}_flip-{i}_VFA"
    for image in sorted(made.glob("drug_*.nii.gz")):
        stem = sidecar_path(image).stem
        label = "".join(c for c in stem.removeprefix("drug_").replace(".", "p") if c.isalnum())
        yield stem, f"{sub}/perf/{sub}_acq-{label}_drug"
