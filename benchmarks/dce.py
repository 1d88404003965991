"""How long the kinetics of a whole brain take: 131,072 voxels x 60 frames of extended Tofts, one core.

Run: OMP_NUM_THREADS=1 python benchmarks/dce.py
"""

from __future__ import annotations

import resource
import time

import numpy as np
import torch

from nanopinn.imaging.aif.source import load_aif
from nanopinn.imaging.kinetics.curve import InputCurve
from nanopinn.imaging.kinetics.fit import fit_kinetics
from nanopinn.imaging.kinetics.models import extended_tofts
from nanopinn.parameters import value

VOXELS, FRAMES, SPACING_S, BOLUS_S, NOISE_MM = 131_072, 60, 5.0, 30.0, 0.02


def main() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    frames = np.arange(FRAMES) * SPACING_S
    aif = load_aif("parker", frame_times_s=frames, bolus_arrival_s=BOLUS_S, hematocrit=value("Hct"))
    truth = torch.as_tensor(
        np.stack(
            [rng.uniform(0.05, 0.5, VOXELS) / 60, rng.uniform(0.1, 0.6, VOXELS), rng.uniform(0.0, 0.1, VOXELS)],
            axis=1,
        )
    )
    curve = InputCurve(aif, frames)
    clean = extended_tofts.evaluate(truth, curve)[0]
    noisy = clean + NOISE_MM * torch.as_tensor(rng.standard_normal(clean.shape))
    print(f"{VOXELS} voxels x {FRAMES} frames, extended Tofts, torch {torch.__version__}, one core")
    for name, C in (("noise-free", clean), (f"noise {NOISE_MM:g} mM", noisy)):
        began = time.perf_counter()
        fit = fit_kinetics(extended_tofts, C, InputCurve(aif, frames))
        seconds = time.perf_counter() - began
        error = (fit.parameters / truth - 1).abs().median(dim=0).values
        print(
            f"{name}: {seconds:.2f} s, converged {fit.converged.double().mean():.2%}, median relative error "
            + ", ".join(f"{n} {e:.1e}" for n, e in zip(extended_tofts.NAMES, error.tolist(), strict=True))
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")


if __name__ == "__main__":
    main()
