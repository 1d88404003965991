"""Fits with unknown fields or with a model error compared with fits of scalars alone.

Run: OMP_NUM_THREADS=1 python benchmarks/inference_fields.py --work fields [--seeds 1 2 3 4 5]
[--lengths 0.4 1.2] [--studies late cut fields pores] [--figure docs/figures/inference_fields.png]

The phantoms have 14 x 14 x 10 voxels of 0.7 mm and 40 frames in 10 min, and are solved by SDIRK3 on
a threefold finer grid. Each study violates one assumption of the fit:

  late    the first half of the frames after the baseline is missing
  cut     the field of view ends inside the tumour
  fields  conductivity and release rate vary by 50 % (1 sd) over 1.5 mm, in addition to the effects
          of vascularity and pH
  pores   the porosity for the drug is 10 % smaller than that for the contrast agent

Every fit uses ``fv`` (Gauss-Newton). Phantoms and results are stored in the work folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from nanopinn.imaging.imaging_data import ImagingInputs
from nanopinn.imaging.pipeline import make_maps
from nanopinn.inference.engine_driver import fit_fv
from nanopinn.inference.model_error import map_model_error
from nanopinn.inference.neural_field import fit_neural
from nanopinn.inference.pose import PosedProblem
from nanopinn.inference.problem import EngineFit
from nanopinn.phantoms.synthetic_study import make_phantom
from nanopinn.settings import FitSettings, PhantomSettings
from nanopinn.solvers.grid import average_subcells
from nanopinn.studies.pose_study import pose_study

Array = NDArray[np.float64]

SIZE: dict[str, Any] = {
    "shape": (14, 14, 10),
    "voxel_mm": (0.7, 0.7, 0.7),
    "frames": 40,
    "frame_spacing_s": 15.0,
}
PHANTOMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "fields": {"conductivity_sd": 0.5, "release_sd": 0.5},
    "pores": {"pore_error": 0.1},
}
PHANTOM_OF_STUDY = {"late": "plain", "cut": "plain", "fields": "fields", "pores": "pores"}
#: Number of voxels along x (of 14) in the cut study; about a quarter of the tumour lies outside.
CUT_TO = 9
BASELINE_FRAMES = 4

#: Settings of the fits of each study; the first fit estimates scalars alone.
FITS: dict[str, dict[str, dict[str, Any]]] = {
    "late": {"scalars": {}, "neural": {"field": ("filtration:neural", "permeability:neural")}},
    "cut": {"scalars": {}, "inflow": {"inflow": True}},
    "fields": {"scalars": {}, "neural": {"field": ("conductivity:neural", "release:neural")}},
    "pores": {"scalars": {}, "model error": {"model_error": 0.1}},
}
INFORMED = ("l", "q", "PS_l", "leak_l", "f_l", "krel_ref")


def make_or_find_phantom(work: Path, kind: str, seed: int, length: float) -> Path:
    folder = work / f"{kind}_{seed}_{length}"
    if not (folder / "cest.nii.gz").exists():
        shutil.rmtree(folder, ignore_errors=True)
        make_phantom(
            folder, PhantomSettings(seed=seed, length_scale_mm=length, **SIZE, **PHANTOMS[kind])
        )
    return folder


def degrade_phantom(folder: Path, study: str) -> Path:
    """The folder of the phantom, or of a copy with the frames or voxels of the study removed."""
    if study not in ("late", "cut"):
        return folder
    out = folder.with_name(f"{folder.name}_{study}")
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(folder, out)
    for path in sorted(out.glob("*.nii.gz")):
        image = nib.load(path)
        values = np.asarray(image.dataobj)
        if study == "cut" and not path.name.startswith(("ph", "cest")):
            nib.save(nib.Nifti1Image(values[:CUT_TO], image.affine, image.header), path)
        if study == "late" and path.name.startswith("dce"):
            n = values.shape[-1]
            kept = [*range(BASELINE_FRAMES), *range((n + BASELINE_FRAMES) // 2, n)]
            nib.save(nib.Nifti1Image(values[..., kept], image.affine, image.header), path)
            side = json.loads((out / "dce.json").read_text())
            side["VolumeTiming"] = [side["VolumeTiming"][i] for i in kept]
            (out / "dce.json").write_text(json.dumps(side | {"BaselineFrames": BASELINE_FRAMES}))
    return out


def pose_folder(folder: Path, options: dict[str, Any]) -> PosedProblem:
    # the arrival cannot be fitted if the frames do not show the bolus; it is given instead
    arrival: dict[str, Any] = {"delay": 0.0} if folder.name.endswith("late") else {}
    inputs = ImagingInputs(
        dce=folder / "dce.nii.gz",
        cest=folder / "ph.nii.gz",
        mask=folder / "mask.nii.gz",
        vfa=tuple(sorted(folder.glob("vfa*.nii.gz"))),
        **arrival,
    )
    settings = FitSettings(
        engine="fv", drug=tuple(str(p) for p in sorted(folder.glob("drug_*.nii.gz"))), **options
    )
    return pose_study(make_maps(inputs), inputs, settings, "cpu")


def fit_posed(posed: PosedProblem, options: dict[str, Any]) -> EngineFit:
    neural = any(text.endswith("neural") for text in options.get("field", ()))
    fit = fit_neural if neural else fit_fv
    return fit(posed.problem, iterations=20, tolerance=0.3)


def measure_errors(folder: Path, posed: PosedProblem, fit: EngineFit) -> dict[str, float]:
    """Errors inside the tumour; pressures are divided by p_e, which is its prior."""
    truth = json.loads((folder / "truth" / "parameters.json").read_text())["scalars_SI"]
    problem, domain, theta = fit.problem, posed.domain, fit.problem.tensor(fit.theta)
    inside = (problem.setting.maps.tumour > 0.5).numpy()
    scalars, sd = problem.scalars(fit.theta), np.sqrt(np.diag(fit.run.covariance))
    found = {}
    for j, u in enumerate(problem.unknowns.items):
        if u.name in INFORMED:
            found[f"{u.name} error"] = float(np.log(scalars[u.name] / truth[u.name]))
            found[f"{u.name} z"] = found[f"{u.name} error"] / float(sd[j])

    def true_field(name: str) -> Array:
        values = np.asarray(nib.load(folder / "truth" / f"{name}.nii.gz").dataobj, dtype=np.float64)
        values = np.moveaxis(values, -1, 0) if values.ndim == 4 else values
        return domain.crop(values[..., : domain.image_shape[0], :, :], np.nan)[..., inside]

    def error(estimate: Array, exact: Array) -> float:
        return float(np.linalg.norm(estimate - exact) / np.linalg.norm(exact))

    forward, flow = problem.forward(), fit.prediction.fields.flow_without_tangents
    model = forward.model(theta)
    p = average_subcells(flow.p, problem.setting.flow_refine).numpy()[inside]
    found["pressure"] = error(p / scalars["p_e"], true_field("IFP") * 133.322 / truth["p_e"])
    speed = flow.velocity(problem.setting.grid).norm(dim=0).numpy()[inside]
    found["speed"] = error(speed, np.linalg.norm(true_field("velocity"), axis=0) * 1e-6)
    times = json.loads((folder / "truth" / "contrast.json").read_text())["FrameTimes"]
    C = forward.solve_contrast(theta, flow, problem.aif, np.array(times))[0].numpy()
    found["contrast, all frames"] = error(C[:, inside], true_field("contrast"))
    found["release rate"] = error(model.release_rate().numpy()[inside] * 3600, true_field("krel"))
    conductivity = (
        scalars["l"] ** 2
        * scalars["q"]
        * model.multiplier("conductivity")
        * torch.ones_like(model.maps.phi)
    )
    factor = folder / "truth" / "conductivity_factor.nii.gz"
    exact = (
        truth["l"] ** 2
        * truth["q"]
        * (true_field("conductivity_factor") if factor.exists() else np.ones(int(inside.sum())))
    )
    found["conductivity"] = error(conductivity.numpy()[inside], exact)
    nodes = [problem.node_index(d) for d in problem.drug]
    pools = fit.prediction.fields.pools
    last = int(np.argmax([d.time_s for d in problem.drug]))
    assert pools is not None
    found["nuclear drug, last image"] = error(
        pools[nodes[last], 4].numpy()[inside] * 1e3, true_field("nuclear")[-1]
    )
    for m in map_model_error(problem, fit.prediction.fields):
        found[f"model error, {m.balance}"] = m.size
    return found


def run(work: Path, study: str, seed: int, length: float) -> None:
    folder = degrade_phantom(
        make_or_find_phantom(work, PHANTOM_OF_STUDY[study], seed, length), study
    )
    for name, options in FITS[study].items():
        path = work / "found" / f"{study}_{name.replace(' ', '_')}_{seed}_{length}.json"
        if path.exists():
            continue
        began = time.perf_counter()
        posed = pose_folder(folder, options)
        fit = fit_posed(posed, options)
        content = {
            "study": study,
            "fit": name,
            "seed": seed,
            "l": length,
            "seconds": time.perf_counter() - began,
            "converged": fit.run.converged,
            "chi2/N": fit.run.chi2 / fit.run.observations,
            **measure_errors(folder, posed, fit),
        }
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
        print(
            study,
            name,
            seed,
            length,
            {k: round(v, 3) if isinstance(v, float) else v for k, v in content.items()},
            flush=True,
        )


def format_table(rows: list[dict[str, Any]]) -> str:
    """One line per study, length and fit: median over the seeds, with the range in brackets."""
    shown = [
        "conductivity",
        "release rate",
        "pressure",
        "speed",
        "contrast, all frames",
        "nuclear drug, last image",
    ]
    scalars = [f"{name} error" for name in ("l", "q", "PS_l", "krel_ref")]
    lines = [
        "| study | l, mm | fit | seeds | " + " | ".join([*shown, *scalars]) + " | s |",
        "|---" * (len(shown) + len(scalars) + 5) + "|",
    ]
    for key in dict.fromkeys((r["study"], r["l"], r["fit"]) for r in rows):
        group = [r for r in rows if (r["study"], r["l"], r["fit"]) == key]
        cells = []
        for name in shown:
            v = [r[name] for r in group]
            cells.append(f"{np.median(v):.3f} ({min(v):.3f}-{max(v):.3f})")
        for name in scalars:
            v = [r[name] for r in group]
            cells.append(f"{np.median(v):+.2f} ({np.median(np.abs(v)):.2f})")
        seconds = np.median([r["seconds"] for r in group])
        lines.append(
            f"| {key[0]} | {key[1]} | {key[2]} | {len(group)} | "
            + " | ".join(cells)
            + f" | {seconds:.0f} |"
        )
    return "\n".join(lines)


def draw_figure(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = [
        ("late", "contrast, all frames"),
        ("late", "speed"),
        ("cut", "pressure"),
        ("cut", "speed"),
        ("fields", "conductivity"),
        ("fields", "release rate"),
        ("pores", "PS_l error"),
        ("pores", "krel_ref error"),
    ]
    titles = {
        "late": "first half of the frames missing",
        "cut": "tumour cut by the image",
        "fields": "K and release vary",
        "pores": "pores 10 % smaller",
    }
    chart, axes = plt.subplots(2, 4, figsize=(13, 6), constrained_layout=True)
    for axis, (study, name) in zip(axes.ravel(), panels, strict=True):
        fits = [f for f in FITS[study] if any(r["study"] == study and r["fit"] == f for r in rows)]
        for r in (r for r in rows if r["study"] == study):
            x = fits.index(r["fit"]) + (0.12 if r["l"] > 0.8 else -0.12)
            axis.plot(
                x,
                abs(r[name]),
                "o" if r["l"] > 0.8 else "s",
                color="C1" if r["l"] > 0.8 else "C0",
                alpha=0.7,
            )
        axis.set(
            xticks=range(len(fits)),
            xticklabels=fits,
            xlim=(-0.5, len(fits) - 0.5),
            ylim=(0, 1.15 * max(abs(r[name]) for r in rows if r["study"] == study)),
        )
        unit = "|ln(found/true)|" if name.endswith("error") else "relative L2"
        axis.set_title(f"{titles[study]}\n{name.removesuffix(' error')}, {unit}", fontsize=9)
    chart.legend(
        *[
            [plt.Line2D([], [], marker=m, ls="", color=c) for m, c in (("s", "C0"), ("o", "C1"))],
            ["l 0.4 mm", "l 1.2 mm"],
        ],
        loc="outside lower center",
        ncol=2,
    )
    chart.savefig(path, dpi=130)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--work", type=Path, required=True)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    arguments.add_argument("--lengths", type=float, nargs="+", default=[0.4, 1.2])
    arguments.add_argument("--studies", nargs="+", default=list(FITS), choices=list(FITS))
    arguments.add_argument("--figure", type=Path)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    for seed in given.seeds:
        for length in given.lengths:
            for study in given.studies:
                run(given.work, study, seed, length)
    rows = [json.loads(p.read_text()) for p in sorted((given.work / "found").glob("*.json"))]
    rows = [
        r
        for r in rows
        if r["seed"] in given.seeds and r["l"] in given.lengths and r["study"] in given.studies
    ]
    print(
        format_table(
            sorted(
                rows,
                key=lambda r: (
                    list(FITS).index(r["study"]),
                    r["l"],
                    list(FITS[r["study"]]).index(r["fit"]),
                ),
            )
        )
    )
    if given.figure:
        draw_figure(rows, given.figure)


if __name__ == "__main__":
    main()
