"""Status flags of the kinetic fit of a voxel."""

from __future__ import annotations

from enum import IntFlag


class Status(IntFlag):
    """Bits of the status map; 0: fit valid."""

    OK = 0
    NONFINITE = 1
    """The signal is not finite, or zero before contrast."""
    NOT_ENHANCING = 2
    """The curve does not exceed the detection limit: kinetics are not fitted."""
    NOT_CONVERGED = 4
    KTRANS_AT_BOUND = 8
    VE_AT_BOUND = 16
    VP_AT_BOUND = 32
    NO_T1 = 64
    """Native T1 is unknown: no T1 fits the flip-angle set, or the map has a hole."""
    SATURATED = 128
    """In some frame the signal exceeds what any T1 gives."""
    FP_AT_BOUND = 256
    PS_AT_BOUND = 512
    DELAY_AT_BOUND = 1024
    NEGATIVE = 2048
    """The curve falls below its baseline by more than its noise: concentrations are negative."""


#: With any of these the voxel has no kinetic parameters. A parameter at its bound is kept.
INVALID = (
    Status.NONFINITE | Status.NOT_ENHANCING | Status.NOT_CONVERGED | Status.NO_T1 | Status.SATURATED
)

#: The bit that marks a parameter at its bound, by parameter.
AT_BOUND = {
    "Ktrans": Status.KTRANS_AT_BOUND,
    "ve": Status.VE_AT_BOUND,
    "vp": Status.VP_AT_BOUND,
    "Fp": Status.FP_AT_BOUND,
    "PS": Status.PS_AT_BOUND,
    "delay": Status.DELAY_AT_BOUND,
}

STATUS_TEXTS = {
    Status.NONFINITE: "signal not finite",
    Status.NOT_ENHANCING: "does not enhance",
    Status.NOT_CONVERGED: "fit did not converge",
    Status.KTRANS_AT_BOUND: "Ktrans at a bound",
    Status.VE_AT_BOUND: "ve at a bound",
    Status.VP_AT_BOUND: "vp at a bound",
    Status.NO_T1: "no T1",
    Status.SATURATED: "signal saturated",
    Status.FP_AT_BOUND: "Fp at a bound",
    Status.PS_AT_BOUND: "PS at a bound",
    Status.DELAY_AT_BOUND: "delay at the limit of the search range",
    Status.NEGATIVE: "concentration negative",
}
