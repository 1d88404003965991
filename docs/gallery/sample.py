"""A small synthetic study and its fit, made once per folder, in place of your own files."""

import sys
import tempfile
from pathlib import Path

import nanopinn

#: Folder of the examples: the command-line argument, or a new temporary folder.
WORK = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="nanopinn-gallery-"))


def study() -> Path:
    """Folder with dce, vfa_*, ph, mask and drug_* as NIfTI files and JSON sidecars."""
    folder = WORK / "study"
    settings = nanopinn.PhantomSettings(
        shape=(12, 12, 8), frames=30, refine=2, length_scale_mm=0.45, drug_times_h=(2.0,)
    )
    return folder if folder.is_dir() else nanopinn.make_phantom(folder, settings)


def result() -> Path:
    """The result folder of a fit of the study."""
    if not (WORK / "result").is_dir():
        inputs = nanopinn.ImagingInputs(
            dce=study() / "dce.nii.gz",
            cest=study() / "ph.nii.gz",
            mask=study() / "mask.nii.gz",
            t1=1.4,
        )
        drug = tuple(str(p) for p in sorted(study().glob("drug_*.nii.gz")))
        nanopinn.write_fit(
            WORK / "result",
            nanopinn.run_fit(inputs, nanopinn.FitSettings(engine="fv", preset="fast", drug=drug)),
        )
    return WORK / "result"
