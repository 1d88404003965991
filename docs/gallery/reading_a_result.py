"""Reading a result folder: parameters, maps with standard deviations, vector maps and drug pools
over time.
"""

import numpy as np
from sample import result

import nanopinn

fit = nanopinn.load_fit(result())
print(fit.check.headline)
for s in fit.scalars:
    low, high = s.interval()
    print(
        f"{s.label}: {s.median:.3g} {s.unit} ({low:.3g} to {high:.3g});"
        f" {'informed' if s.informed else 'prior-dominated'}"
    )

for name in ("Ktrans", "IFP", "velocity", "krel"):
    m = fit.maps[name]
    print(
        f"{name}: {np.nanmedian(m.values[fit.mask]):.3g} +-"
        f" {np.nanmedian(m.std[fit.mask]):.2g} {m.unit}, from {m.source}"
    )

u = fit.vectors["velocity_vector"]  # (3, x, y, z) along the voxel axes
assert np.allclose(np.linalg.norm(u.values, axis=0), fit.maps["velocity"].values, equal_nan=True)

free = fit.fields["free"]  # (t, x, y, z)
for t, values in zip(free.times_s, free.values, strict=True):
    print(
        f"{free.description} at {t / 3600:g} h: tumour mean"
        f" {np.nanmean(values[fit.mask]):.3g} {free.unit}"
    )
