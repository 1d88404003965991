"""Fit from arrays: signal, pH map and tumour mask are in memory, and no file is written."""

import numpy as np

import nanopinn

study = nanopinn.phantom(shape=(12, 12, 8), frames=30, refine=2, length_scale_mm=0.45)
dce, ph, mask = (
    study.images[name] for name in ("dce", "ph", "mask")
)  # replace with your own arrays

found = nanopinn.fit(
    dce=np.asarray(dce),  # signal (t, x, y, z)
    times=10.0 * np.arange(len(dce)),  # s
    affine=dce.affine,  # voxel indices to RAS mm
    cest=(np.asarray(ph), {"affine": ph.affine, "pHStd": 0.1}),  # pH (x, y, z) on its own grid
    mask=np.asarray(mask),
    tr=0.005,  # s
    flip_angle=15.0,  # degrees
    t1=1.4,  # s
    settings=nanopinn.FitSettings(engine="fv", preset="fast"),
)
pressure = found.fit.maps["IFP"]
median = np.nanmedian(pressure.values[found.fit.mask])
print(f"{pressure.description}: median {median:.2f} {pressure.unit}")
print(nanopinn.format_summary(found.fit))
