"""Error of a fit decomposed by source: one Gauss-Newton step from the true unknowns of a phantom.

    OMP_NUM_THREADS=1 python benchmarks/error_sources.py --folder phantoms --seeds 101 102 103

The Gauss-Newton step at the true unknowns is linear in the residual. It is therefore the sum of
the steps from each part of the residual: noise of the drug images, error of the pH map (and its
non-linear remainder), error of the kinetic maps, discretisation error, contrast agent curves and
prior. The shifts are in posterior standard deviations. Their sum is printed beside the error of
the fit.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from nanopinn import FitSettings, ImagingInputs
from nanopinn.imaging.pipeline import make_maps
from nanopinn.inference.engine_driver import fit_fv
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.phantoms.synthetic_study import make_phantom
from nanopinn.settings import PhantomSettings
from nanopinn.studies.pose_study import pose_study

RELEASED = ("free", "bound", "intracellular", "nuclear")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, required=True, help="folder of the phantoms; missing ones are made"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103])
    parser.add_argument("--length", type=float, default=0.4, help="l, mm")
    parser.add_argument("--shape", type=int, nargs=3, default=[16, 16, 10])
    parser.add_argument(
        "--unknown",
        default="krel_ref",
        help="the unknown whose shifts are printed for each seed",
    )
    args = parser.parse_args()
    tables = []
    for seed in args.seeds:
        study = args.folder / f"l{args.length:g}_seed{seed}"
        if not (study / "truth" / "parameters.json").exists():
            make_phantom(
                study,
                PhantomSettings(
                    seed=seed, shape=tuple(args.shape), length_scale_mm=args.length, refine=2
                ),
            )
        tables.append(shifts_by_source(study))
        print(
            f"seed {seed}, {args.unknown}: "
            + _format_shifts({k: v[args.unknown] for k, v in tables[-1].items()}),
            flush=True,
        )
    for unknown in tables[0]["noise"]:
        mean = {
            source: float(np.mean([t[source][unknown] for t in tables])) for source in tables[0]
        }
        print(f"mean of {len(tables)}, {unknown}: " + _format_shifts(mean))


def shifts_by_source(study: Path) -> dict[str, dict[str, float]]:
    """Shift of every unknown by every source, in posterior sd, with their ``sum`` and the error of
    the ``fit``.
    """
    inputs = ImagingInputs(
        dce=study / "dce.nii.gz",
        cest=study / "ph.nii.gz",
        mask=study / "mask.nii.gz",
        vfa=tuple(sorted(study.glob("vfa_*.nii.gz"))),
    )
    drug = tuple(str(p) for p in sorted(study.glob("drug_*.nii.gz")))
    posed = pose_study(make_maps(inputs), inputs, FitSettings(drug=drug), "cpu")
    fit = fit_fv(posed.problem)
    problem, unknowns = fit.problem, posed.problem.unknowns
    assert problem.errors is not None
    recorded = json.loads((study / "truth" / "parameters.json").read_text())
    truth = np.array(
        [
            math.log(recorded["scalars_SI"][u.name])
            if u.scale == "log"
            else recorded["scalars_SI"][u.name]
            for u in unknowns.items
        ]
    )

    def true_field(name: str) -> torch.Tensor:
        """A true map ``(x, y, z)`` or field ``(t, x, y, z)``."""
        values = np.nan_to_num(
            np.asarray(nib.load(study / "truth" / f"{name}.nii.gz").dataobj, dtype=np.float64)
        )
        return torch.as_tensor(
            posed.domain.crop(np.moveaxis(values, -1, 0) if values.ndim == 4 else values, 0.0)
        )

    maps = problem.setting.maps
    inside = maps.tumour > 0.5

    def with_tumour_maps(problem: InverseProblem, **values: torch.Tensor) -> InverseProblem:
        """The problem with these maps in the tumour."""
        changed = {
            name: torch.where(inside, value, getattr(maps, name)) for name, value in values.items()
        }
        return replace(
            problem, setting=replace(problem.setting, maps=replace(problem.setting.maps, **changed))
        )

    def whiten_images(of: Callable[[int], torch.Tensor]) -> torch.Tensor:
        """All drug images, whitened and concatenated."""
        return torch.cat([d.whiten(of(i)) for i, d in enumerate(problem.drug)])

    def predict_images(problem: InverseProblem) -> torch.Tensor:
        pools = problem.solve(truth, problem.forward()).pools
        assert pools is not None
        return whiten_images(
            lambda i: (d := problem.drug[i]).predict(
                pools[problem.node_index(d)], problem.setting.maps, problem.plasma_at(d.time_s)
            )
        )

    def true_image(i: int) -> torch.Tensor:
        d = problem.drug[i]
        at = recorded["settings"]["drug_times_h"].index(d.time_s / 3600)
        pools = ("encapsulated",) if d.quantity == "encapsulated" else RELEASED
        image = torch.stack([true_field(name)[at] for name in pools]).sum(dim=0) / 1e3
        return (
            image + true_field("vp") * problem.plasma_at(d.time_s)
            if d.quantity == "encapsulated"
            else image
        )

    true_kinetics = dict(
        phi=true_field("ve"),
        v_p=true_field("vp"),
        PS=maps.PS * true_field("Ktrans") / 60 / problem.local_kinetics[0],
    )
    with_fitted_maps, with_true_kinetics = (
        predict_images(problem),
        predict_images(with_tumour_maps(problem, **true_kinetics)),
    )
    with_measured_pH = predict_images(
        with_tumour_maps(problem, **true_kinetics, pH=problem.measured_pH)
    )
    with_true_pH, from_truth = (
        predict_images(with_tumour_maps(problem, **true_kinetics, pH=true_field("pH"))),
        whiten_images(true_image),
    )
    linear_pH_effect = problem.errors.pH_on_drug @ problem.errors.pH
    # predictions include the estimated scales and constants, which the fit eliminates
    of_constants = (
        problem.errors.scale_on_drug @ problem.errors.scale
        + problem.errors.parameters_on_drug @ problem.errors.drug_parameters
    )
    parts = {
        "kinetic maps": with_fitted_maps - with_true_kinetics,
        "pH": with_measured_pH - with_true_pH,
        "pH, non-linear": with_true_kinetics - with_measured_pH - linear_pH_effect,
        "grid": with_true_pH - from_truth - of_constants + problem.errors.grid_on_drug.sum(dim=1),
        "noise": from_truth - whiten_images(lambda i: problem.drug[i].measured),
    }

    fields = problem.solve(truth, problem.forward(), tangents=True)
    J = problem.jacobian(fields.d_contrast, fields.d_pools).numpy()
    curves = problem.residual(fields.contrast, None).numpy()
    J_curves, J_drug = J[: len(curves)], J[len(curves) :]
    hessian = J.T @ J + np.diag(unknowns.prior_sd**-2.0)
    sd = np.sqrt(np.diag(np.linalg.inv(hessian)))
    gradients = {
        k: J_drug.T @ problem.errors.drug.eliminate_tangents(v[None])[0].numpy()
        for k, v in parts.items()
    }
    gradients |= {
        "contrast agent": J_curves.T @ curves,
        "prior": (truth - unknowns.prior_mean) / unknowns.prior_sd**2,
    }
    found = {
        source: -np.linalg.solve(hessian, gradient) / sd for source, gradient in gradients.items()
    }
    found |= {"sum": np.sum(list(found.values()), axis=0), "fit": (fit.theta - truth) / sd}
    return {
        source: dict(zip(unknowns.names, values.tolist(), strict=True))
        for source, values in found.items()
    }


def _format_shifts(by_source: dict[str, float]) -> str:
    return ", ".join(f"{source} {value:+.2f}" for source, value in by_source.items())


if __name__ == "__main__":
    main()
