"""Fit from arrays: what is in memory is written as NIfTI with its JSON, which keeps geometry and
timing with the numbers.
"""

import nibabel as nib
import numpy as np
from sample import WORK, study

import nanopinn
from nanopinn.io.volumes import write_volume

# your arrays: signal (t, x, y, z), pH (x, y, z), tumour (x, y, z), and the affine from voxels to mm
# (RAS)
scan, ph, tumour = (nib.load(study() / f"{n}.nii.gz") for n in ("dce", "ph", "mask"))
signal = np.moveaxis(scan.get_fdata(), -1, 0)
acquisition = {
    "VolumeTiming": [10.0 * i for i in range(len(signal))],  # s, one per frame
    "RepetitionTimeExcitation": 0.005,  # s
    "FlipAngle": 15,  # degrees
    "BolusArrivalTime": 60.0,  # s
}
write_volume(WORK / "array_dce.nii.gz", signal, scan.affine, sidecar=acquisition)
write_volume(WORK / "array_ph.nii.gz", ph.get_fdata(), ph.affine, sidecar={"pHStd": 0.1})
write_volume(WORK / "array_mask.nii.gz", tumour.get_fdata(), tumour.affine)

inputs = nanopinn.ImagingInputs(
    dce=WORK / "array_dce.nii.gz",
    cest=WORK / "array_ph.nii.gz",
    mask=WORK / "array_mask.nii.gz",
    t1=1.4,
    aif="parker",
)
found = nanopinn.run_fit(inputs, nanopinn.FitSettings(engine="fv", preset="fast"))
pressure = found.fit.maps["IFP"]
print(
    f"{pressure.description}: median"
    f" {np.nanmedian(pressure.values[found.fit.mask]):.2f} {pressure.unit}"
)
print(nanopinn.describe_information(found.fit))
