"""Parameters on which a simulation depends, and values that a user states for them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from nanopinn.errors import InputError
from nanopinn.io.quantities import parse_quantity
from nanopinn.parameters import (
    CONVENTIONS,
    PARAMETERS,
    SCALARS,
    Parameter,
    ScalarDefinition,
    scalars_of_formulation,
    value,
)
from nanopinn.physics.drug_pools import CELL_SYMBOLS, WALL_SYMBOLS
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.treatment import Treatment

#: Parameters of every drug besides those of its formulation, of walls, interstitium and cells:
#: vessels and oxygen of the sub-voxel model, cell kill.
VESSEL_SYMBOLS = ("Hct", "tau_c", "R_c", "spread_Rt", "D_O2", "M_O2", "p_O2_v")
KILL_SYMBOLS = ("EC50_i", "m_hill", "f_max", "k_kill_H", "res_q")
#: Walls and interstitium of normal tissue, which draws do not vary.
NORMAL_TISSUE_SYMBOLS = ("SV_n", "P_f_n", "D_f_n", "P_b_n", "sigmaT_n", "P_l_n", "sigma_l_n")

#: A stated value beyond the range of its parameter by this factor is refused as an error of unit,
#: the root of the usual 1,000.
STATED_RANGE_FACTOR = 1000**0.5


@dataclass(frozen=True)
class StatedValues:
    """Values that a user states in place of those of a tumour, a fit or the table.

    Attributes:
        scalars: of the model by name, SI.
        values: of other parameters by symbol, SI.
        descriptions: name, value and unit of each, in words.
    """

    scalars: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    descriptions: tuple[str, ...] = ()

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What is stated, as a sentence; none if nothing is."""
        if not self.descriptions:
            return ()
        return (
            f"Stated for this run, in place of any other value: {'; '.join(self.descriptions)}."
            " All other values are unchanged by this.",
        )


def list_formulations(treatments: Iterable[Treatment]) -> tuple[Formulation, ...]:
    """Every formulation of some treatments."""
    return tuple(dict.fromkeys(g.formulation for t in treatments for g in t.doses))


def simulation_parameters(
    treatments: Sequence[Treatment], *, microscale: bool
) -> dict[str, Parameter]:
    """Parameters on which simulations of some treatments depend, by symbol, conventions left out.

    Scalars of the model are among them where a formulation names their row of the table. Those that
    depend on the species (``Hct``) have the row of the subject's.

    Args:
        treatments: what is given.
        microscale: whether the sub-voxel model and cell kill are computed.
    """
    found: dict[str, Parameter] = {}
    if any(t.doses for t in treatments):
        symbols = (*WALL_SYMBOLS, *CELL_SYMBOLS, *NORMAL_TISSUE_SYMBOLS, "tau_c")
        found |= {s: PARAMETERS[s] for s in symbols}
        if microscale:
            found |= {s: PARAMETERS[s] for s in VESSEL_SYMBOLS + KILL_SYMBOLS}
            found["Hct"] = PARAMETERS[treatments[0].subject.species.haematocrit]
    for f in list_formulations(treatments):
        found |= {s: f.parameter(s) for s in f.symbols()}
    if any(t.radiation.fractions for t in treatments):
        found |= {s: p for s, p in PARAMETERS.items() if s.startswith("RT_")}
    if any(t.heating_intervals_s for t in treatments):
        found |= {s: p for s, p in PARAMETERS.items() if s.startswith("HT_")}
    return {s: p for s, p in found.items() if s not in CONVENTIONS}


def read_stated_values(
    given: Mapping[str, float | str], treatments: Sequence[Treatment], *, microscale: bool = False
) -> StatedValues:
    """Read values that a user states for scalars of the model and parameters of the table.

    Args:
        given: by name of a scalar (:data:`nanopinn.parameters.SCALARS`) or by symbol of the table.
            Numbers are in SI. Texts hold a number and a unit, such as ``0.8 mm``; a text without a
            unit is in the customary unit of a scalar, and in SI for a symbol of the table.
        treatments: that are simulated.
        microscale: whether the sub-voxel model and cell kill are computed.

    Raises:
        InputError: a name is unknown or stated twice, the simulation does not depend on it, the
            unit is of another dimension, or the value is not plausible.
    """
    parameters = simulation_parameters(treatments, microscale=microscale)
    scalars: dict[str, float] = {}
    values: dict[str, float] = {}
    descriptions = []
    for name, content in given.items():
        scalar = _find_scalar(name)
        if scalar is not None and _depends_on_scalar(scalar, treatments, parameters):
            if scalar.name in scalars:
                raise InputError(
                    "a value is stated twice", field="values", found=f"{name} and {scalar.name}"
                )
            si = _read_scalar(scalar, content)
            scalars[scalar.name] = si
            unit = "" if scalar.unit == "1" else f" {scalar.unit}"
            descriptions.append(f"{scalar.label} = {si * scalar.per_unit:.5g}{unit}")
        elif scalar is None and name in parameters:
            p = parameters[name]
            values[name] = si = _read_parameter(p, content)
            unit = "" if p.unit == "1" else f" {p.unit}"
            descriptions.append(f"{p.name} ({name}) = {si:.5g}{unit}")
        else:
            raise _refusal(name, scalar, parameters, treatments)
    return StatedValues(scalars, values, tuple(descriptions))


def _find_scalar(name: str) -> ScalarDefinition | None:
    """The scalar of a name, or of the row of the table that it has its default from."""
    if name in SCALARS:
        return SCALARS[name]
    return next((s for s in SCALARS.values() if s.symbol == name and not s.factor_symbol), None)


def acting_scalars(treatments: Sequence[Treatment]) -> frozenset[str]:
    """Names of the scalars of the model on which the drug of some treatments depends.

    Args:
        treatments: what is given.
    """
    return frozenset(
        s.name
        for f in list_formulations(treatments)
        for s in scalars_of_formulation(carrier=f.circulation is not None, acid=f.responds_to_acid)
    )


def _depends_on_scalar(
    scalar: ScalarDefinition, treatments: Sequence[Treatment], parameters: Mapping[str, Parameter]
) -> bool:
    if scalar.group == "flow":
        return True
    if scalar.name not in acting_scalars(treatments):
        return False
    return scalar.group == "cells" or scalar.symbol is None or scalar.symbol in parameters


def _read_scalar(scalar: ScalarDefinition, content: float | str) -> float:
    row = PARAMETERS[scalar.symbol] if scalar.symbol is not None else None
    si_unit = _si_unit(scalar, row)
    if isinstance(content, str):
        si = parse_quantity(content, si_unit, default_unit=scalar.unit, field="values")
    else:
        si = float(content)
    factor = 1.0 if scalar.factor_symbol is None else value(scalar.factor_symbol)
    low, high = (None if row is None or v is None else v * factor for v in _ends(row))
    unit = "" if scalar.unit == "1" else f" {scalar.unit}"
    _require_plausible(
        f"{scalar.name}, {scalar.label}",
        si,
        _plausible_range(scalar.default, low, high, si_unit, linear=scalar.scale == "linear"),
        scalar.per_unit,
        unit,
    )
    return si


def _si_unit(scalar: ScalarDefinition, row: Parameter | None) -> str:
    """Unit of the SI value of a scalar, from its customary unit."""
    if scalar.factor_symbol is None and row is not None:
        return row.unit
    return {"1/h": "1/s", "mm": "m", "mmHg": "Pa"}.get(scalar.unit, "1")


def _ends(row: Parameter | None) -> tuple[float | None, float | None]:
    return (None, None) if row is None else (row.low, row.high)


def _read_parameter(p: Parameter, content: float | str) -> float:
    si = (
        parse_quantity(content, p.unit, field="values")
        if isinstance(content, str)
        else float(content)
    )
    linear = p.prior is not None and p.prior.kind == "normal"
    unit = "" if p.unit == "1" else f" {p.unit}"
    _require_plausible(
        f"{p.symbol}, {p.name}",
        si,
        _plausible_range(p.value, p.low, p.high, p.unit, linear=linear),
        1.0,
        unit,
    )
    return si


def _plausible_range(
    middle: float, low: float | None, high: float | None, unit: str, *, linear: bool
) -> tuple[float, float]:
    """Range of values that are accepted: what-ifs may be extreme, an error of unit is not."""
    low, high = (middle if low is None else low), (middle if high is None else high)
    if unit == "K":
        return 273.15, 373.15
    if unit == "1" and low >= 0 and high <= 1:
        return 0.0, 1.0
    if linear:
        return low - 2 * (high - low), high + 2 * (high - low)
    if low <= 0:
        return 0.0, STATED_RANGE_FACTOR * high
    return low / STATED_RANGE_FACTOR, high * STATED_RANGE_FACTOR


def _require_plausible(
    name: str, si: float, ends: tuple[float, float], per_unit: float, unit: str
) -> None:
    low, high = ends
    if not low <= si <= high:
        raise InputError(
            f"the value that is stated for {name}, is not plausible",
            field="values",
            found=f"{si * per_unit:.6g}{unit}",
            expected=f"{low * per_unit:.3g} to {high * per_unit:.3g}{unit}",
            remedy="Check the unit: numbers that are no text are in SI.",
        )


def _refusal(
    name: str,
    scalar: ScalarDefinition | None,
    parameters: Mapping[str, Parameter],
    treatments: Sequence[Treatment],
) -> InputError:
    scalars = [s for s in SCALARS.values() if _depends_on_scalar(s, treatments, parameters)]
    known = ", ".join(s.name + ("" if s.unit == "1" else f" ({s.unit})") for s in scalars)
    composite = next((s for s in SCALARS.values() if s.symbol == name and s.factor_symbol), None)
    if composite is not None:
        return InputError(
            "a value cannot be stated for a factor of a scalar of the model",
            field="values",
            found=name,
            expected=f"{composite.name}, the {composite.label}",
            remedy=f"State {composite.name}, the product of {name} and {composite.factor_symbol}.",
        )
    if scalar is not None or name in PARAMETERS:
        return InputError(
            "a value is stated that this simulation does not depend on",
            field="values",
            found=name,
            expected=f"{known}, or one of {', '.join(s for s in parameters if s not in SCALARS)}",
            remedy="Leave it out; a parameter of a carrier needs a dose of that carrier.",
        )
    near = difflib.get_close_matches(name, [*SCALARS, *parameters], n=3, cutoff=0.6)
    return InputError(
        "a value is stated for an unknown parameter",
        field="values",
        found=name,
        expected=f"{known}, or a symbol of the parameter table",
        remedy=f"Did you mean {' or '.join(near)}?" if near else "Correct the name.",
    )
