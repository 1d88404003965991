"""Duration of CEST processing: Bloch-McConnell spectra of the default agent, and a pH map from the
Z-spectra of a volume.

Run: python benchmarks/cest.py
"""

from __future__ import annotations

import time

import numpy as np
import torch

from nanopinn.imaging.cest.agent import load_agent
from nanopinn.imaging.cest.bloch import Saturation, simulate_z_spectra
from nanopinn.imaging.cest.ph_map import estimate_ph_image
from nanopinn.imaging.cest.ratiometric import bloch_calibration
from nanopinn.imaging.cest.z_spectra import ZSpectra

SHAPE, OFFSETS, SPECTRA, NOISE = (64, 64, 8), 80, 1000, 0.003


def main() -> None:
    agent, saturation, rng = (
        load_agent("iopamidol"),
        Saturation(7.0, 3.0, 5.0),
        np.random.default_rng(0),
    )
    ppm = np.linspace(-7, 7, OFFSETS)
    pH = rng.uniform(6.3, 7.3, SPECTRA)
    one = torch.ones(SPECTRA, dtype=torch.float64)
    began = time.perf_counter()
    Z = simulate_z_spectra(
        agent,
        saturation,
        torch.as_tensor(ppm),
        pH=torch.as_tensor(pH),
        molar=0.02 * one,
        T1_s=1.6 * one,
        T2_s=0.1 * one,
    ).numpy()
    seconds = time.perf_counter() - began
    rate, threads = SPECTRA / seconds, torch.get_num_threads()
    print(
        f"Bloch-McConnell, {len(agent.pools) + 1} pools, {OFFSETS} offsets: {rate:,.0f} spectra/s,"
        f" {threads} threads"
    )
    index = rng.integers(0, SPECTRA, SHAPE)
    series = Z[index] + NOISE * rng.standard_normal((*SHAPE, OFFSETS))
    began = time.perf_counter()
    spectra = ZSpectra(ppm, series, series[..., 0], np.eye(4), saturation, ())
    found = estimate_ph_image(
        spectra, bloch_calibration(agent, saturation, "rex"), calibration_std=0.0
    )
    seconds = time.perf_counter() - began
    error = found.pH - pH[index]
    print(
        f"Z-spectra to pH, {'x'.join(map(str, SHAPE))} voxels x {OFFSETS} offsets: {seconds:.1f} s;"
        f" error {np.nanmean(error):+.3f} +- {np.nanstd(error):.3f}, stated standard deviation"
        f" {np.sqrt(np.nanmean(found.std**2)):.3f}, {np.isfinite(error).mean():.1%} of the voxels"
        " have a pH"
    )


if __name__ == "__main__":
    main()
