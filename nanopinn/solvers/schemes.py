"""Implicit Runge-Kutta schemes: L-stable, stiffly accurate, one diagonal coefficient for every stage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scheme:
    """Butcher tableau of a stiffly accurate DIRK method; ``explicit_first`` marks a first stage at t_n.

    ``error`` weighs the stage rates to the difference from an embedded method one order higher, if there is one.
    """

    name: str
    order: int
    gamma: float
    a: tuple[tuple[float, ...], ...]
    explicit_first: bool
    error: tuple[float, ...] | None = None

    @property
    def nodes(self) -> tuple[float, ...]:
        """Times of the stages as fractions of the step."""
        return tuple(sum(row) for row in self.a)

    @property
    def weights(self) -> tuple[float, ...]:
        """What each stage's rate adds to the step."""
        return self.a[-1]


def _tr_bdf2() -> Scheme:
    g = 1 - 2**-0.5
    w = 2**0.5 / 4
    third = ((1 - w) / 3, (3 * w + 1) / 3, g / 3)
    error = (w - third[0], w - third[1], g - third[2])
    return Scheme("TR-BDF2", 2, g, ((0.0,), (g, g), (w, w, g)), explicit_first=True, error=error)


def _sdirk3() -> Scheme:
    g = 0.4358665215084590
    b1 = -1.5 * g**2 + 4 * g - 0.25
    b2 = 1.5 * g**2 - 5 * g + 1.25
    return Scheme("SDIRK3", 3, g, ((g,), ((1 - g) / 2, g), (b1, b2, g)), explicit_first=False)


#: Order 2 (Hosea and Shampine 1996), which fits and simulations use.
TR_BDF2 = _tr_bdf2()
#: Order 3 (Alexander 1977), which checks and phantoms use.
SDIRK3 = _sdirk3()
