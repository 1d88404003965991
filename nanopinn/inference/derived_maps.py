"""Maps with uncertainty, drug fields in time and tumour mean curves, derived from a fit."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from nanopinn.imaging.imaging_data import ImagingMaps
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.observations import nearest_nodes
from nanopinn.inference.pose import PH_ASSUMED_ERROR, PosedProblem
from nanopinn.inference.problem import EngineFit
from nanopinn.inference.unknown_fields import OUTPUT_HOURS, field_maps, inflow_map, model_error_maps
from nanopinn.parameters import HOUR, MMHG, value
from nanopinn.physics.drug_pools import DRUG_POOLS, volume_fractions
from nanopinn.physics.formulation_library import PH_SENSITIVE
from nanopinn.results import Curve, FieldEstimate, MapEstimate, VectorEstimate
from nanopinn.solvers.derivatives import directional_derivatives
from nanopinn.solvers.drug_forward import solve_drug
from nanopinn.solvers.grid import average_subcells

Array = NDArray[np.float64]


def derive_maps(
    imaging: ImagingMaps, posed: PosedProblem, fit: EngineFit[InverseProblem]
) -> dict[str, MapEstimate]:
    """Every map of a fit on the grid of the scan, NaN where it was not estimated.

    Args:
        imaging: maps from the images.
        posed: problem before the fit, with its box within the scan.
        fit: fit whose fields have tangents.

    Returns:
        Maps by name.
    """
    found = [
        MapEstimate(
            "Ktrans",
            "1/min",
            "volume transfer constant",
            "images",
            imaging.ktrans_per_min,
            imaging.ktrans_std,
        ),
        MapEstimate(
            "ve",
            "1",
            "extravascular extracellular volume fraction",
            "images",
            imaging.ve,
            imaging.ve_std,
        ),
        MapEstimate("vp", "1", "plasma volume fraction", "images", imaging.vp, imaging.vp_std),
        MapEstimate(
            "T1",
            "s",
            "native longitudinal relaxation time",
            "images",
            imaging.t1_s,
            _none_if_unknown(imaging.t1_std_s),
        ),
        MapEstimate("pH", "1", "measured extracellular pH", "images", imaging.ph, imaging.ph_std),
        *_flow_maps(posed, fit),
        *_release_map(imaging, posed, fit),
        *field_maps(fit, posed.domain),
        *inflow_map(fit, posed.domain),
        *model_error_maps(fit, posed.domain),
    ]
    return {m.name: m for m in found}


def _none_if_unknown(std: Array) -> Array | None:
    """The standard deviations, or None if no voxel has one."""
    return std if np.isfinite(std).any() else None


def _flow_maps(posed: PosedProblem, fit: EngineFit[InverseProblem]) -> list[MapEstimate]:
    """Pressure, speed and filtration rate with their posterior standard deviations."""
    problem, flow = fit.problem, fit.prediction.fields.flow
    r = problem.setting.flow_refine
    p = average_subcells(flow.p, r)
    assert flow.dp is not None
    tangents = average_subcells(flow.dp, r)
    covariance = problem.tensor(fit.run.covariance)
    sd = torch.einsum("ixyz,ij,jxyz->xyz", tangents, covariance, tangents).clamp_min(0).sqrt()

    def image(values: torch.Tensor) -> Array:
        return posed.domain.embed(values.cpu().numpy())

    u, du = _velocity_with_tangents(fit)
    speed = u.norm(dim=0)
    along = (du * u).sum(dim=1) / speed.clamp_min(1e-30)
    speed_sd = torch.einsum("ixyz,ij,jxyz->xyz", along, covariance, along).clamp_min(0).sqrt()
    return [
        MapEstimate(
            "IFP",
            "mmHg",
            "interstitial fluid pressure; its absolute level is determined by the prior of p_e",
            "images and prior",
            image(p) / MMHG,
            image(sd) / MMHG,
        ),
        MapEstimate(
            "velocity",
            "um/s",
            "speed of the interstitial fluid (Darcy velocity)",
            "images and prior",
            image(speed) * 1e6,
            image(speed_sd) * 1e6,
        ),
        MapEstimate(
            "Jv",
            "1/h",
            "filtration rate out of the vessels",
            "images and prior",
            image(flow.J_v) * HOUR,
        ),
    ]


def derive_vectors(
    posed: PosedProblem, fit: EngineFit[InverseProblem]
) -> dict[str, VectorEstimate]:
    """Vector fields of a fit on the grid of the scan.

    Args:
        posed: problem before the fit, with its box within the scan.
        fit: fit whose fields have tangents.

    Returns:
        The Darcy velocity in um/s, by name.
    """
    u, _ = _velocity_with_tangents(fit)
    text = "Darcy velocity of the interstitial fluid"
    return {
        "velocity_vector": VectorEstimate(
            "velocity_vector", "um/s", text, posed.domain.embed(u.cpu().numpy()) * 1e6
        )
    }


def _velocity_with_tangents(fit: EngineFit[InverseProblem]) -> tuple[torch.Tensor, torch.Tensor]:
    """Darcy velocity ``(3, x, y, z)``, m/s, and its tangents ``(m, 3, x, y, z)``."""
    problem, flow = fit.problem, fit.prediction.fields.flow
    assert flow.dp is not None
    theta, forward = problem.tensor(fit.theta), problem.forward()

    def velocity(th: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return forward.flow_from_pressure(th, p).velocity(problem.setting.grid)

    identity = torch.eye(len(theta), dtype=theta.dtype, device=theta.device)
    return velocity(theta, flow.p), directional_derivatives(
        velocity, (theta, flow.p), (identity, flow.dp)
    )[0]


def _release_map(
    imaging: ImagingMaps, posed: PosedProblem, fit: EngineFit[InverseProblem]
) -> list[MapEstimate]:
    """Release rate at body temperature, with the uncertainty from the constants of the law and from
    the pH; none for free drug.
    """
    problem = fit.problem
    carrier = PH_SENSITIVE if problem.course is None else problem.course.carrier
    if carrier is None:
        return []
    theta = problem.tensor(fit.theta)
    forward = problem.forward()

    def log_rate(th: torch.Tensor) -> torch.Tensor:
        return torch.log(forward.model(th).release_rate(carrier))

    (J,) = directional_derivatives(
        log_rate, (theta,), (torch.eye(len(theta), dtype=theta.dtype, device=theta.device),)
    )
    covariance = problem.tensor(fit.run.covariance)
    variance = torch.einsum("ixyz,ij,jxyz->xyz", J, covariance, J)
    slope = np.log(10) * value("n_rel") if carrier.responds_to_acid else 0.0
    pH_sd = posed.domain.crop(np.nan_to_num(imaging.ph_std, nan=PH_ASSUMED_ERROR), PH_ASSUMED_ERROR)
    relative = torch.sqrt(variance + problem.tensor((slope * pH_sd) ** 2))
    rate = torch.exp(log_rate(theta)) * HOUR
    source: Literal["images and prior", "prior"] = "images and prior" if problem.drug else "prior"
    text = (
        "release rate of the carrier by the release law at the pH of the map"
        if carrier.responds_to_acid
        else "release rate of the carrier at body temperature"
    )
    put = posed.domain.embed
    values, sd = put(rate.cpu().numpy()), put((rate * relative).cpu().numpy())
    return [MapEstimate("krel", "1/h", text, source, values, sd)]


def derive_drug_fields(
    posed: PosedProblem, fit: EngineFit[InverseProblem]
) -> dict[str, FieldEstimate]:
    """Concentration of every drug pool at the times of the images and at standard hours.

    Args:
        posed: problem before the fit, with its box within the scan.
        fit: the fit.

    Returns:
        Fields by pool, ug per mL of tissue; none where no treatment is known.
    """
    problem = fit.problem
    if problem.course is None:
        return {}
    theta = problem.tensor(fit.theta)
    hours = sorted({*OUTPUT_HOURS, *(d.time_s / HOUR for d in problem.drug)})
    times = [h * HOUR for h in hours]
    nodes = problem.drug_nodes(times)
    run = solve_drug(problem.forward(), theta, fit.prediction.fields.flow_without_tangents, nodes)
    kept = nearest_nodes(nodes, times)
    pools = problem.course.options.pools
    per_tissue = volume_fractions(pools, problem.setting.maps) * run.U[kept]
    return {
        name: FieldEstimate(
            name,
            "ug/mL",
            f"{DRUG_POOLS[name].description}, per tissue volume",
            np.array(times),
            posed.domain.embed(per_tissue[:, i].cpu().numpy() * 1e3),
        )
        for i, name in enumerate(pools)
    }


def derive_curves(
    fit: EngineFit[InverseProblem],
) -> tuple[Curve, ...]:
    """Measured and modelled means over the tumour.

    Args:
        fit: the fit.

    Returns:
        One curve of contrast agent, and one for each quantity of drug image.
    """
    problem = fit.problem
    inside = problem.contrast.voxels
    modelled = fit.prediction.fields.contrast[:, inside].mean(dim=1).cpu().numpy()
    measured = problem.contrast.measured.mean(dim=1).cpu().numpy()
    results = [Curve("contrast agent, tumour mean", "mM", problem.frame_times, measured, modelled)]
    pools = fit.prediction.fields.pools
    for quantity in sorted({d.quantity for d in problem.drug}):
        series = sorted((d for d in problem.drug if d.quantity == quantity), key=lambda d: d.time_s)
        assert pools is not None
        images = [
            d.predict(
                pools[problem.node_index(d)], problem.setting.maps, problem.plasma_at(d.time_s)
            )
            for d in series
        ]
        results.append(
            Curve(
                f"{quantity} drug, tumour mean",
                "ug/mL",
                np.array([d.time_s for d in series]),
                np.array([float(d.measured[d.voxels].mean()) * 1e3 for d in series]),
                np.array(
                    [float(i[d.voxels].mean()) * 1e3 for i, d in zip(images, series, strict=True)]
                ),
                np.array(
                    [
                        float(d.sd[d.voxels].square().mean().sqrt() / d.count**0.5) * 1e3
                        for d in series
                    ]
                ),
            )
        )
    return tuple(results)
