"""Fit from arrays: signal, pH and tumour in memory; nothing is written to disk."""

import numpy as np

import nanopinn

study = nanopinn.phantom(shape=(12, 12, 8), frames=30, refine=2, length_scale_mm=0.45)
dce, ph, mask = (study.images[name] for name in ("dce", "ph", "mask"))  # in place of your own
signal, tumour = np.asarray(dce), np.asarray(mask)  # (t, x, y, z) and (x, y, z)
facts = {"times": 10.0 * np.arange(len(signal)), "tr": 0.005, "flip_angle": 15.0, "t1": 1.4}
found = nanopinn.fit(signal, ph, mask=tumour, affine=dce.affine, preset="fast", **facts)
ifp = found.fit.maps["IFP"]
print(f"{ifp.description}: median {np.nanmedian(ifp.values[found.fit.mask]):.2f} {ifp.unit}")
print(nanopinn.format_summary(found.fit))
