"""Duration of the kinetic fit (spoiled-gradient signal to Ktrans, ve and vp, 60 frames), compared
with dcmri in the same run.

Run: OMP_NUM_THREADS=1 python benchmarks/dce.py [--device cuda]
dcmri is installed by: pip install -e '.[test]'
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
import torch

from nanopinn.imaging.dce.aif import load_aif
from nanopinn.imaging.dce.impulse_response import InputCurve, PlasmaCurve, evaluate
from nanopinn.imaging.dce.models import MODELS
from nanopinn.imaging.dce.signal import concentration_from_signal, signal_from_concentration
from nanopinn.imaging.dce.voxel_fit import KineticFit, fit_kinetics
from nanopinn.parameters import value

VOXELS, PEER_VOXELS, FRAMES, SPACING_S, BOLUS_S, NOISE = 131_072, 200, 60, 5.0, 30.0, 0.01
T1_S, TR_S, FLIP_DEG, R1, BASELINE = 1.4, 0.005, 15.0, 4.5, 6


def timed(work: Callable[[], KineticFit]) -> tuple[float, KineticFit]:
    began = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began, result


def fit_with_dcmri(
    signal: np.ndarray, frames: np.ndarray, aif: PlasmaCurve
) -> tuple[float, np.ndarray]:
    """Seconds and (Ktrans in 1/s, ve, vp) of dcmri's voxel-wise fit of the same signals."""
    import dcmri

    fine = np.arange(0, frames[-1] + 0.25, 0.5)
    blood_molar = np.interp(fine, aif.times_s, aif.plasma_mM, left=0) * (1 - value("Hct")) / 1000
    tissue = dcmri.TissueArray(
        (len(signal),),
        kinetics="HF",
        sequence="SS",
        ca=blood_molar,
        t=fine,
        r1=1000 * R1,
        TR=TR_S,
        FA=FLIP_DEG,
        n0=BASELINE,
        R10=1 / T1_S,
        H=value("Hct"),
    )
    began = time.perf_counter()
    tissue.train(frames, signal)
    seconds = time.perf_counter() - began
    return seconds, np.stack([tissue.PS, tissue.vi, tissue.vb * (1 - value("Hct"))], axis=1)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--device", default="cpu")
    device = arguments.parse_args().device
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    frames = np.arange(FRAMES) * SPACING_S
    aif = load_aif(
        "parker", frame_times_s=frames, bolus_arrival_s=BOLUS_S, hematocrit=value("Hct")
    ).curve
    truth = np.stack(
        [
            rng.uniform(0.05, 0.5, VOXELS) / 60,
            rng.uniform(0.1, 0.6, VOXELS),
            rng.uniform(0.0, 0.1, VOXELS),
        ],
        axis=1,
    )
    model = MODELS["etofts"]
    clean = evaluate(model, torch.as_tensor(truth), InputCurve(aif, frames))[0].numpy()
    T1 = np.full((VOXELS, 1), T1_S)
    signal = signal_from_concentration(clean, np.ones(1), T1, TR_S, FLIP_DEG, R1)
    signal = signal * (1 + NOISE * rng.standard_normal(signal.shape))

    def fit() -> KineticFit:
        base = signal[:, :BASELINE].mean(1, keepdims=True)
        C = concentration_from_signal(signal, base, T1, TR_S, FLIP_DEG, R1)
        return fit_kinetics(
            model, torch.as_tensor(C, device=device), InputCurve(aif, frames, device)
        )

    def error(found: np.ndarray) -> str:
        middle = np.nanmedian(np.abs(found / truth[: len(found)] - 1), axis=0)
        return ", ".join(f"{n} {e:.1%}" for n, e in zip(model.NAMES, middle, strict=True))

    timed(
        lambda: fit_kinetics(
            model, torch.as_tensor(clean[:64], device=device), InputCurve(aif, frames, device)
        )
    )  # the first calls load and compile what the timed call then uses
    seconds, ours = timed(fit)
    where = "one core" if device == "cpu" else torch.cuda.get_device_name()
    print(
        f"extended Tofts, {FRAMES} frames, noise {NOISE:.0%} of the signal, torch"
        f" {torch.__version__}, {where}"
    )
    print(
        f"nanopinn: {VOXELS} voxels in {seconds:.2f} s, {VOXELS / seconds:,.0f} voxels/s, converged"
        f" {ours.converged.double().mean():.2%}; median relative error"
        f" {error(ours.parameters.cpu().numpy())}"
    )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    theirs, found = fit_with_dcmri(signal[:PEER_VOXELS], frames, aif)
    print(
        f"dcmri:    {PEER_VOXELS} voxels in {theirs:.2f} s, {PEER_VOXELS / theirs:,.0f} voxels/s;"
        f" median relative error {error(found)}\nratio"
        f" {VOXELS / seconds / (PEER_VOXELS / theirs):,.0f}, peak memory {memory:.2f} GB"
    )


if __name__ == "__main__":
    main()
