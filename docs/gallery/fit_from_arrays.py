"""Fit from arrays: signal, pH and tumour in memory; nothing is written to disk."""

import numpy as np

import nanopinn

study = nanopinn.phantom(shape=(12, 12, 8), frames=30, refine=2, length_scale_mm=0.45)
dce, ph, mask = (np.asarray(study.images[n]) for n in ("dce", "ph", "mask"))  # your arrays
found = nanopinn.fit(
    dce=dce,  # signal (t, x, y, z)
    times=10.0 * np.arange(len(dce)),  # s
    affine=np.diag([0.5, 0.5, 0.5, 1.0]),  # voxel indices to RAS mm
    cest=(ph, {"affine": study.images["ph"].affine, "pHStd": 0.1}),  # pH (x, y, z), its own grid
    mask=mask,
    tr=0.005,  # s
    flip_angle=15.0,  # degrees
    t1=1.4,  # s
    settings=nanopinn.FitSettings(engine="fv", preset="fast"),
)
pressure = found.fit.maps["IFP"]
median = np.nanmedian(pressure.values[mask > 0.5])
print(f"{pressure.description}: median {median:.2f} {pressure.unit}")
print(nanopinn.format_summary(found.fit))
