"""Quick start: a fit from files, with its summary printed and its result folder written."""

from sample import WORK, study

import nanopinn

files = study()  # or your own folder with dce.nii.gz and dce.json, ph.nii.gz, ...
inputs = nanopinn.ImagingInputs(
    dce=files / "dce.nii.gz",
    cest=files / "ph.nii.gz",
    mask=files / "mask.nii.gz",
    vfa=tuple(sorted(files.glob("vfa_*.nii.gz"))),
)
# preset="fast" gives a first result quickly; the default preset uses a finer grid
settings = nanopinn.FitSettings(
    engine="fv", preset="fast", drug=tuple(str(p) for p in sorted(files.glob("drug_*.nii.gz")))
)
found = nanopinn.run_fit(
    inputs, settings, progress=lambda stage, share, numbers: print(f"{share:4.0%} {stage}")
)

print(nanopinn.format_imaging_summary(found.imaging))
print(nanopinn.format_summary(found.fit))  # the check, then prior and posterior
print("Assumed:", *found.fit.assumptions, sep="\n- ")
print("Written:", nanopinn.write_fit(WORK / "result", found, overwrite=True))
