"""Own arterial input: a table of plasma concentrations instead of a population curve, and the
effect on Ktrans.
"""

import numpy as np
from sample import WORK, study

import nanopinn

files = study()
given = {"dce": files / "dce.nii.gz", "mask": files / "mask.nii.gz", "t1": 1.4}
population = nanopinn.run_maps(nanopinn.ImagingInputs(**given, aif="parker"), device="cpu")

# instead of a measured curve, this example uses the population curve scaled by 1.2
table = WORK / "aif.tsv"
rows = [
    f"{t:.3f}\t{1.2 * c:.6f}"
    for t, c in zip(population.aif.times_s, population.aif.plasma_mM, strict=True)
]
table.write_text("time_s\tplasma_mM\n" + "\n".join(rows) + "\n")  # blood_mM is divided by 1 - Hct

own = nanopinn.run_maps(nanopinn.ImagingInputs(**given, aif=str(table), delay=0.0), device="cpu")
ratio = np.nanmedian((own.ktrans_per_min / population.ktrans_per_min)[own.mask])
print(
    f"With the arterial input scaled by 1.2, Ktrans is scaled by {ratio:.3f} (1/1.2 ="
    f" {1 / 1.2:.3f})."
)
