"""Quick start: files in, a fit out, its table printed and its folder written."""

from sample import WORK, study

import nanopinn

files = study()  # your own: a folder with dce.nii.gz and dce.json, ph.nii.gz, ...
inputs = nanopinn.ImagingInputs(
    dce=files / "dce.nii.gz",
    cest=files / "ph.nii.gz",
    mask=files / "mask.nii.gz",
    vfa=tuple(sorted(files.glob("vfa_*.nii.gz"))),
)
# engine="fv" and preset="fast" are for a quick look; the defaults run both engines on a finer grid
settings = nanopinn.FitSettings(
    engine="fv", preset="fast", drug=tuple(str(p) for p in sorted(files.glob("drug_*.nii.gz")))
)
found = nanopinn.run_fit(
    inputs, settings, progress=lambda stage, share, numbers: print(f"{share:4.0%} {stage}")
)

print(nanopinn.format_imaging_summary(found.imaging))
print(nanopinn.format_summary(found.fit))  # the check first, then prior beside posterior
print("Assumed:", *found.fit.assumptions, sep="\n- ")
print("Written:", nanopinn.write_fit(WORK / "result", found, overwrite=True))
