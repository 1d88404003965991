"""Why a voxel is, or is not, to be trusted: one bit each."""

from __future__ import annotations

from enum import IntFlag


class Status(IntFlag):
    """Bits of the status map; 0 is a voxel without complaint."""

    OK = 0
    NONFINITE = 1
    """The signal or its concentration is not finite (saturation, zero baseline)."""
    NOT_ENHANCING = 2
    """The curve does not rise above its noise: kinetics are not fitted."""
    NOT_CONVERGED = 4
    KTRANS_AT_BOUND = 8
    VE_AT_BOUND = 16
    VP_AT_BOUND = 32
    NO_T1 = 64
    """No T1 fits the flip-angle set."""


#: With any of these the voxel has no kinetic values.
INVALID = Status.NONFINITE | Status.NOT_ENHANCING | Status.NOT_CONVERGED | Status.NO_T1

WORDS = {
    Status.NONFINITE: "signal not finite or saturated",
    Status.NOT_ENHANCING: "does not enhance",
    Status.NOT_CONVERGED: "fit did not converge",
    Status.KTRANS_AT_BOUND: "Ktrans at a bound",
    Status.VE_AT_BOUND: "ve at a bound",
    Status.VP_AT_BOUND: "vp at a bound",
    Status.NO_T1: "no T1",
}
