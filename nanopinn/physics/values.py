"""Values of parameters by symbol, where they differ from the table's: a draw from their priors, or a user's own carrier."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from nanopinn.parameters import value

Number = Tensor | float
Values = Mapping[str, Number]


def parameter_lookup(values: Values | None) -> Callable[[str], Number]:
    """What gives a parameter's value: the one given, else the table's."""
    moved = values or {}
    return lambda symbol: moved[symbol] if symbol in moved else value(symbol)


def scalar_lookup(values: Values | None) -> Callable[[str], float]:
    """The same as plain numbers, for what holds for one patient at a time."""
    find = parameter_lookup(values)
    return lambda symbol: float(find(symbol))
