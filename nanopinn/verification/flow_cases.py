"""Interstitial pressure against the closed solutions of Baxter and Jain (V1, V2)."""

from __future__ import annotations

import numpy as np
import torch

from nanopinn.parameters import MMHG
from nanopinn.physics import analytic
from nanopinn.physics.flow import FlowCoefficients
from nanopinn.solvers.pressure import solve_pressure
from nanopinn.verification.case import VerificationCase, ball


def isolated_sphere() -> list[VerificationCase]:
    """V1: sphere with p = 0 at its edge, by the formula and by the solver on cubes."""
    source = "Baxter and Jain 1989"
    found = []
    for alpha, points, mean in (
        (36.82, {0.9: 0.9720}, 0.9207),
        (18.41, {0.9: 0.8237}, 0.8459),
        (3.968, {1e-9: 0.8498, 0.5: 0.7300}, 0.4339),
    ):
        for x, reference in points.items():
            exact = float(analytic.isolated_sphere_pressure(np.array([x]), alpha)[0])
            quantity = f"p/p_e at x={x:.1f}, a={alpha}"
            found.append(
                VerificationCase(
                    "V1", "isolated sphere, formula", quantity, exact, reference, 1.5e-4, source
                )
            )
        quantity, exact = f"mean p/p_e, a={alpha}", analytic.isolated_sphere_mean(alpha)
        found.append(
            VerificationCase(
                "V1", "isolated sphere, formula", quantity, exact, mean, 1.5e-4, source
            )
        )
    R, K, LpSV = 5e-3, 3.098e-14, 3.098e-14 * (3.968 / 5e-3) ** 2
    grid, r = ball(R, 1.1, 64)
    inside = r < R
    # outside the ball a very large conductivity and sink keep p at 0 on the faces of the ball
    flow = FlowCoefficients(
        K=torch.where(inside, K, 1e5 * K),
        LpSV=torch.where(inside, LpSV, 0.0),
        p_e=torch.full_like(r, 1533.0),
        LpLSL=torch.where(inside, 0.0, 1e5 * LpSV),
        p_L=0.0,
        p_inf=0.0,
    )
    p = solve_pressure(flow, grid).x / 1533.0
    exact_field = torch.as_tensor(
        analytic.isolated_sphere_pressure(r.numpy().clip(1e-9) / R, 3.968)
    )
    error = float((p - exact_field)[inside].norm() / exact_field[inside].norm())
    return [
        *found,
        VerificationCase(
            "V1", "isolated sphere, 64^3 cells", "relative L2 of p", error, 0.0, 0.03, source
        ),
        VerificationCase(
            "V1",
            "isolated sphere, 64^3 cells",
            "mean p/p_e",
            float(p[inside].mean()),
            0.4339,
            0.01,
            source,
        ),
    ]


def sphere_in_tissue() -> list[VerificationCase]:
    """V2: sphere in infinite normal tissue, by the formula and by the solver."""
    source = "Baxter and Jain 1989, closed solution"
    R, tissue = 5e-3, {"K_t": 3.098e-14, "LpSV_t": 4.2e-7, "p_e": 1533.0}
    normal = {"K_n": 6.4e-15, "LpSV_n": 1.89e-8, "p_e_n": 867.0, "LpLSL_n": 4.17e-7}

    def exact(r: np.ndarray) -> np.ndarray:
        return analytic.sphere_in_tissue_pressure(r, R, **tissue, **normal)

    points = {
        "far field": (0.1, 0.28),
        "edge": (R, 7.752),
        "r = 0.9 R": (0.9 * R, 10.838),
        "core": (1e-6, 11.498),
    }
    found = [
        VerificationCase(
            "V2",
            "sphere in tissue, formula",
            f"{name}, mmHg",
            float(exact(np.array([r]))[0]) / MMHG,
            ref,
            5e-3,
            source,
        )
        for name, (r, ref) in points.items()
    ]
    step = 1e-9
    slope = float((exact(np.array([R]))[0] - exact(np.array([R - step]))[0]) / step)
    found.append(
        VerificationCase(
            "V2",
            "sphere in tissue, formula",
            "edge flux, um/s",
            -tissue["K_t"] * slope * 1e6,
            0.0539,
            5e-5,
            source,
        )
    )
    grid, r = ball(R, 1.25, 96)
    inside = r < R
    flow = FlowCoefficients(
        K=torch.where(inside, tissue["K_t"], normal["K_n"]),
        LpSV=torch.where(inside, tissue["LpSV_t"], normal["LpSV_n"]),
        p_e=torch.where(inside, tissue["p_e"], normal["p_e_n"]),
        LpLSL=torch.where(inside, 0.0, normal["LpLSL_n"]),
        p_L=0.0,
        p_inf=0.0,
    )
    p = solve_pressure(flow, grid).x
    reference = torch.as_tensor(exact(r.numpy()))
    error = float((p - reference)[inside].norm() / reference[inside].norm())
    core = float(p[48, 48, 48]) / MMHG
    return [
        *found,
        VerificationCase(
            "V2",
            "sphere in tissue, 96^3 cells",
            "relative L2 of p in the tumour",
            error,
            0.0,
            0.03,
            source,
        ),
        VerificationCase(
            "V2", "sphere in tissue, 96^3 cells", "core, mmHg", core, 11.498, 0.01, source
        ),
        VerificationCase(
            "bracket",
            "pressure in a 1 cm tumour",
            "core, mmHg; cervix, mean and sd of 12 patients",
            core,
            15.7,
            5.7,
            "Roh 1991 Cancer Res 51:6695",
            kind="bracket",
        ),
        VerificationCase(
            "bracket",
            "pressure in a 1 cm tumour",
            "core, mmHg; head and neck, 4 to 33 in 19 patients",
            core,
            18.5,
            14.5,
            "Gutmann 1992 Cancer Res 52:1993",
            kind="bracket",
        ),
    ]
