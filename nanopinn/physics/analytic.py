"""Closed solutions with which the solvers are verified."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.linalg import solve

Array = NDArray[np.float64]


def isolated_sphere_pressure(x: Array, alpha: float) -> Array:
    """Pressure over p_e in a sphere with p = 0 at its edge: ``1 - sinh(alpha x) / (x sinh alpha)``.

    Args:
        x: distance from the centre over the radius of the sphere, in (0, 1].
        alpha: radius of the sphere over the hydraulic length l.

    References:
        Baxter and Jain, Microvasc. Res. 37:77 (1989), isolated tumour.
    """
    # sinh(a x)/sinh(a) without overflow for large a
    ratio = np.exp(alpha * (x - 1)) * (-np.expm1(-2 * alpha * x)) / (-np.expm1(-2 * alpha))
    return 1 - ratio / x


def isolated_sphere_mean(alpha: float) -> float:
    """Volume mean of :func:`isolated_sphere_pressure`, ``1 - 3 (alpha coth alpha - 1)/alpha^2``.

    Args:
        alpha: radius of the sphere over the hydraulic length l.
    """
    return float(1 - 3 * (alpha / np.tanh(alpha) - 1) / alpha**2)


def sphere_in_tissue_pressure(
    r: Array,
    radius: float,
    K_t: float,
    LpSV_t: float,
    p_e: float,
    K_n: float,
    LpSV_n: float,
    p_e_n: float,
    LpLSL_n: float,
) -> Array:
    """Pressure of a spherical tumour in infinite normal tissue with lymphatics (p_L = 0), Pa.

        inside   p = p_e + A sinh(r/l_t)/r
        outside  p = p_ss + B exp(-(r - R)/l_n)/r

    A and B follow from the continuity of pressure and flux at R.

    Args:
        r: distance from the centre, m.
        radius: R of the tumour, m.
        K_t: hydraulic conductivity of the tumour, m2/(Pa s).
        LpSV_t: Lp S/V of the tumour, 1/(Pa s).
        p_e: driving pressure in the tumour, Pa.
        K_n: hydraulic conductivity of normal tissue, m2/(Pa s).
        LpSV_n: Lp S/V of normal tissue, 1/(Pa s).
        p_e_n: driving pressure in normal tissue, Pa.
        LpLSL_n: LpL SL/V of normal tissue, 1/(Pa s).

    References:
        Baxter and Jain, Microvasc. Res. 37:77 (1989), tumour surrounded by normal tissue.
    """
    l_t = np.sqrt(K_t / LpSV_t)
    l_n = np.sqrt(K_n / (LpSV_n + LpLSL_n))
    p_ss = LpSV_n * p_e_n / (LpSV_n + LpLSL_n)
    R = radius
    coth = 1 / np.tanh(R / l_t)
    # unknowns: a = A sinh(R/l_t) / R (edge drop) and b = B / R
    slope_in = coth / l_t - 1 / R
    slope_out = -(1 / l_n + 1 / R)
    a, b = solve(
        np.array([[1.0, -1.0], [K_t * slope_in, -K_n * slope_out]]), np.array([p_ss - p_e, 0.0])
    )
    within, beyond = np.clip(r, 1e-12, R), np.maximum(r, R)
    ratio = np.exp((within - R) / l_t) * np.expm1(-2 * within / l_t) / np.expm1(-2 * R / l_t)
    inside = p_e + a * R / within * ratio
    outside = p_ss + b * R / beyond * np.exp(-(beyond - R) / l_n)
    return np.where(r <= R, inside, outside)


def bateman(t: Array, k_in: float, k_out: float) -> Array:
    """Product of a first-order chain from unit substrate (Bateman).

        k_in/(k_out - k_in) (e^{-k_in t} - e^{-k_out t})

    Args:
        t: s.
        k_in: rate at which the product forms, 1/s.
        k_out: rate at which it is lost, 1/s.
    """
    return k_in / (k_out - k_in) * (np.exp(-k_in * t) - np.exp(-k_out * t))


def krogh_first_order(
    r: Array, R_c: float, R_t: float, phi_D: float, k: float, P: float, C_vessel: float = 1.0
) -> Array:
    """Steady concentration around a vessel with a permeable wall and a first-order sink.

        phi D (1/r) d/dr (r dC/dr) = k C
        -phi D dC/dr = P (C_vessel - C) at R_c,   dC/dr = 0 at R_t
        C = A (I0(m r) K1(m R_t) + K0(m r) I1(m R_t)),   m = sqrt(k / phi D)

    The Bessel functions are scaled exponentially to avoid overflow.

    Args:
        r: distance from the axis of the vessel, m.
        R_c: radius of the vessel, m.
        R_t: radius of the tissue, m.
        phi_D: diffusivity times porosity, m2/s.
        k: sink per tissue volume, 1/s.
        P: permeability of the wall, m/s.
        C_vessel: concentration in the vessel.
    """
    m = np.sqrt(k / phi_D)

    def shape(x: Array, i: int) -> Array:
        """``I_i(x) K_1(m R_t) -+ K_i(x) I_1(m R_t)``, over ``exp(m (R_t - R_c))``."""
        out = special.ive(i, x) * special.kve(1, m * R_t) * np.exp(x + m * R_c - 2 * m * R_t)
        return out + (1 - 2 * i) * special.kve(i, x) * special.ive(1, m * R_t) * np.exp(m * R_c - x)

    wall = np.array(m * R_c)
    amplitude = P * C_vessel / (P * shape(wall, 0) - phi_D * m * shape(wall, 1))
    return amplitude * shape(m * r, 0)


def ogata_banks(x: Array, t: float, v: float, D: float) -> Array:
    """Concentration in steady flow through a half space whose face is held at 1 from t = 0.

        C = (erfc((x - v t)/2 sqrt(D t)) + exp(v x/D) erfc((x + v t)/2 sqrt(D t))) / 2

    Args:
        x: distance from the face, m.
        t: time, s.
        v: velocity, m/s.
        D: dispersion coefficient, m2/s.

    References:
        Ogata and Banks, USGS Professional Paper 411-A (1961).
    """
    width = 2 * np.sqrt(D * t)
    near, far = (x - v * t) / width, (x + v * t) / width
    # exp(v x/D - far^2) = exp(-near^2): no product of a huge and a vanishing number
    return (special.erfc(near) + np.exp(-(near**2)) * special.erfcx(far)) / 2
