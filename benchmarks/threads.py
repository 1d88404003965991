"""Differences between fits of the same study on one thread, on one thread again, and on two.

OMP_WAIT_POLICY=PASSIVE python benchmarks/threads.py --seeds 0 1 2 --engine fv
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from nanopinn.imaging.imaging_data import ImagingInputs
from nanopinn.phantoms.synthetic_study import make_phantom
from nanopinn.settings import FitSettings, PhantomSettings
from nanopinn.studies.fit import run_fit


def fit_scalars(
    folder: Path, engine: Literal["fv", "krylov", "auto"], drug: bool, threads: int
) -> np.ndarray:
    """Posterior medians and sd of every scalar, ``(2, m)``."""
    torch.set_num_threads(threads)
    images = tuple(str(p) for p in sorted(folder.glob("drug_*.nii.gz"))) if drug else ()
    settings = FitSettings(engine=engine, preset="fast", device="cpu", drug=images)
    inputs = ImagingInputs(
        dce=folder / "dce.nii.gz", cest=folder / "ph.nii.gz", mask=folder / "mask.nii.gz", t1=1.4
    )
    scalars = run_fit(inputs, settings).fit.scalars
    return np.array([[s.median for s in scalars], [s.sd for s in scalars]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--engine", choices=("fv", "krylov", "auto"), default="fv")
    parser.add_argument("--drug", action="store_true")
    given = parser.parse_args()
    worst = np.zeros(2)
    for seed in given.seeds:
        with tempfile.TemporaryDirectory() as folder:
            torch.set_num_threads(1)
            study = make_phantom(
                Path(folder) / "phantom", PhantomSettings(shape=(10, 10, 6), refine=2, seed=seed)
            )
            one, again, two = (fit_scalars(study, given.engine, given.drug, n) for n in (1, 1, 2))
        difference = np.array([np.max(np.abs(other / one - 1)) for other in (again, two)])
        worst = np.maximum(worst, difference)
        print(
            f"seed {seed}, largest relative difference: one thread again {difference[0]:.1e}, two"
            f" threads {difference[1]:.1e}",
            flush=True,
        )
    print(
        f"{given.engine}{' with drug images' if given.drug else ''}, {os.cpu_count()} cores,"
        f" largest over all seeds: {worst[0]:.1e} and {worst[1]:.1e}"
    )


if __name__ == "__main__":
    main()
