"""Maps only: Ktrans, ve, vp and T1 of a series, also with the kinetic model selected per voxel."""

import numpy as np
from sample import WORK, study

import nanopinn

files = study()
for model in ("etofts", "tofts", "auto"):
    inputs = nanopinn.ImagingInputs(
        dce=files / "dce.nii.gz",
        mask=files / "mask.nii.gz",
        vfa=tuple(sorted(files.glob("vfa_*.nii.gz"))),
        model=model,
    )
    imaging = nanopinn.run_maps(inputs, device="cpu")
    print(nanopinn.format_imaging_summary(imaging), end="\n\n")

chosen = imaging.kinetics.model_index[imaging.mask]
for i, name in enumerate(imaging.kinetics.candidates):
    print(f"{name}: smallest AICc in {np.mean(chosen == i):.0%} of the tumour voxels")
print("Written:", nanopinn.write_imaging(WORK / "maps", imaging, inputs, overwrite=True))
