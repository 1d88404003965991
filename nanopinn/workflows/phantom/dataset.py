"""Many synthetic studies as a BIDS dataset, for demonstrations and tests of cohorts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanopinn.errors import InputError
from nanopinn.imaging.io import sidecar_path, write_bytes, write_json
from nanopinn.progress import Progress, ignore_progress
from nanopinn.report.claim import atomic_output_folder
from nanopinn.report.table import format_tsv
from nanopinn.workflows.cohort.dataset import write_raw_description
from nanopinn.workflows.phantom.study import VFA_DEG, make_phantom
from nanopinn.workflows.settings import PhantomSettings

#: Delineated masks are derivatives in BIDS; the phantom's are exact.
MASKS = Path("derivatives", "masks")


def make_phantom_dataset(
    out: Path, count: int, settings: PhantomSettings, *, progress: Progress = ignore_progress
) -> Path:
    """Write ``count`` synthetic subjects, seeds from ``settings.seed`` on, under BIDS names.

    The truth and the Z-spectra of each stay in ``sourcedata/sub-<label>``, where no fit looks.

    Args:
        out: a folder that does not exist yet.

    Returns:
        The folder.

    Raises:
        InputError: the count is not positive. OutputError: the folder is there, or cannot be written.
    """
    from nanopinn import __version__

    if not 1 <= count <= 9999:
        raise InputError(
            "a number of subjects that cannot be made",
            field="--bids",
            found=count,
            expected="1 to 9999",
        )
    with atomic_output_folder(Path(out), overwrite=False) as part:
        rows = [_write_subject(part, i, count, settings, progress) for i in range(count)]
        write_bytes(part / "participants.tsv", format_tsv(rows))
        write_json(
            part / "participants.json",
            {"seed": {"Description": "of anatomy, parameters and noise"}},
        )
        write_bytes(
            part / "README",
            b"Synthetic tumours drawn by nanopinn phantom; the truth is in sourcedata. No person was scanned.\n",
        )
        write_raw_description(part, "nanopinn phantoms", "nanopinn phantom", __version__)
        write_raw_description(
            part / MASKS, "true masks of nanopinn phantoms", "nanopinn phantom", __version__
        )
    progress("done", 1.0, {})
    return Path(out)


def _write_subject(
    part: Path, i: int, count: int, settings: PhantomSettings, progress: Progress
) -> dict[str, Any]:
    """One subject's files; its row of the participants."""
    sub, seed = f"sub-{i + 1:0{max(2, len(str(count)))}d}", settings.seed + i
    progress(f"subject {i + 1} of {count}", i / count, {})
    made = make_phantom(part / "sourcedata" / sub, settings.model_copy(update={"seed": seed}))
    for old, new in _bids_names(made, sub):
        for source, target in (
            (made / f"{old}.nii.gz", part / f"{new}.nii.gz"),
            (made / f"{old}.json", part / f"{new}.json"),
        ):
            if source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.rename(source, target)
    return {"participant_id": sub, "seed": seed}


def _bids_names(made: Path, sub: str) -> Iterator[tuple[str, str]]:
    """Of what becomes an input: its name in the study, and its place in the dataset."""
    yield "dce", f"{sub}/perf/{sub}_dce"
    yield "ph", f"{sub}/cest/{sub}_pHmap"
    yield "mask", f"{MASKS.as_posix()}/{sub}/anat/{sub}_label-tumour_mask"
    for i, flip in enumerate(VFA_DEG, 1):
        yield f"vfa_fa{flip:02.0f}", f"{sub}/anat/{sub}_flip-{i}_VFA"
    for image in sorted(made.glob("drug_*.nii.gz")):
        stem = sidecar_path(image).stem
        label = "".join(c for c in stem.removeprefix("drug_").replace(".", "p") if c.isalnum())
        yield stem, f"{sub}/perf/{sub}_acq-{label}_drug"
