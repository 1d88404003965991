"""Calibrations from TOML files: published polynomials from a contrast ratio r to pH.

    pH = c0 + c1 x + c2 x^2 + ...,   x = r, ln r or log10 r

pH has to be strictly monotone over the range of ratios, so that the inversion is unique.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.polynomial import Polynomial
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from nanopinn.errors import InputError
from nanopinn.imaging.cest.ratiometric import Contrast, PhCalibration
from nanopinn.io.safe_open import TomlNumber, check_printable, read_toml

Array = NDArray[np.float64]
Variable = Literal["ratio", "ln ratio", "log10 ratio"]
Positive = Annotated[TomlNumber, Field(gt=0)]
#: Limits that no calibration exceeds and within which floating-point arithmetic is safe.
_Coefficient = Annotated[TomlNumber, Field(ge=-1e9, le=1e9)]
_Ratio = Annotated[TomlNumber, Field(ge=1e-6, le=1e6)]
_PH = Annotated[TomlNumber, Field(ge=0, le=14)]
_PPM = Annotated[TomlNumber, Field(gt=-30, lt=30)]


class _CalibrationEntries(BaseModel):
    """Entries of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: Annotated[
        str,
        StringConstraints(strip_whitespace=True, min_length=1, max_length=500),
        AfterValidator(check_printable),
    ]
    coefficients: Annotated[tuple[_Coefficient, ...], Field(min_length=2, max_length=10)]
    of: Variable
    contrast: Contrast
    ratio_ppm: tuple[_PPM, _PPM]
    pH_range: tuple[_PH, _PH]
    std_pH: Positive
    ratio_range: tuple[_Ratio, _Ratio] | None = None
    field_T: Positive | None = None
    B1_uT: Positive | None = None
    seconds: Positive | None = None


def is_calibration_file(name: str) -> bool:
    """Whether the name of a calibration is that of a file."""
    return name.endswith(".toml")


def read_calibration(path: str | Path) -> PhCalibration:
    """Read the calibration that a TOML file describes.

    Args:
        path: file with ``source``, ``coefficients`` (lowest power first), ``of``, ``contrast``,
            ``ratio_ppm``, ``pH_range`` and ``std_pH``; optionally ``ratio_range``, and ``field_T``,
            ``B1_uT``, ``seconds`` of the scan that it was measured with.

    Raises:
        InputError: the file cannot be read, an entry is missing, unknown or wrong, or pH is not
            strictly monotone in the ratio.
    """
    path = Path(path)
    return parse_calibration(read_toml(path, "the calibration"), path)


def parse_calibration(entries: Mapping[str, Any], path: Path) -> PhCalibration:
    """Build a calibration from the entries of a file.

    Args:
        entries: as in the file.
        path: the file that errors name.

    Raises:
        InputError: as :func:`read_calibration`.
    """
    given = _validate_entries(entries, path)
    pH_of, lowest, highest = Polynomial(given.coefficients), *given.pH_range
    slope_of, (first, last) = pH_of.deriv(), given.ratio_range or (0.0, np.inf)
    _check_monotone(pH_of, given, path)

    def invert(ratio: Array, B1: Array) -> tuple[Array, Array]:
        usable = np.where(
            np.isfinite(ratio) & (ratio > 0) & (ratio >= first) & (ratio <= last), ratio, np.nan
        )
        x = _transform_ratio(usable, given.of)
        pH = pH_of(x)
        inside = (pH >= lowest) & (pH <= highest)
        by_ln = (
            slope_of(x)
            * {"ratio": usable, "ln ratio": 1.0, "log10 ratio": 1 / np.log(10)}[given.of]
        )
        return np.where(inside, pH, np.nan), np.where(inside, by_ln, np.nan)

    scan = {
        "MagneticFieldStrength": given.field_T,
        "SaturationB1uT": given.B1_uT,
        "SaturationTimeS": given.seconds,
    }
    return PhCalibration(
        invert,
        lowest,
        highest,
        f"{given.source} ({path.name}, pH {lowest:g} to {highest:g})",
        given.contrast,
        given.std_pH,
        given.ratio_ppm,
        scan={k: v for k, v in scan.items() if v is not None},
    )


def _transform_ratio(ratio: Any, of: Variable) -> Array:
    """The variable of the polynomial."""
    r = np.asarray(ratio, dtype=np.float64)
    return r if of == "ratio" else np.log(r) if of == "ln ratio" else np.log10(r)


def _validate_entries(entries: Mapping[str, Any], path: Path) -> _CalibrationEntries:
    """Check every entry, and entries against each other."""
    try:
        given = _CalibrationEntries.model_validate(entries)
    except ValidationError as error:
        first = error.errors()[0]
        missing = first["type"] == "missing"
        unknown = first["type"] == "extra_forbidden"
        raise InputError(
            "an entry of the calibration is"
            f" {'missing' if missing else 'not known' if unknown else 'wrong'}",
            file=path,
            field=str(first["loc"][0]),
            found=None if missing else first["input"],
            expected=", ".join(_CalibrationEntries.model_fields) if unknown else first["msg"],
            remedy="Correct the entry; the documentation of CEST describes the file.",
        ) from error
    a, b = given.ratio_ppm
    for name, found, wrong, expected in (
        (
            "coefficients",
            given.coefficients,
            not any(given.coefficients[1:]),
            "a polynomial that is not constant",
        ),
        (
            "ratio_ppm",
            given.ratio_ppm,
            a * b <= 0 or a == b,
            "two different frequencies on one side of water",
        ),
        (
            "pH_range",
            given.pH_range,
            given.pH_range[0] >= given.pH_range[1],
            "the lower value first",
        ),
        (
            "ratio_range",
            given.ratio_range,
            given.ratio_range and given.ratio_range[0] >= given.ratio_range[1],
            "the lower value first",
        ),
    ):
        if wrong:
            raise InputError(
                "an entry of the calibration is wrong",
                file=path,
                field=name,
                found=list(found or ()),
                expected=expected,
            )
    return given


def _check_monotone(pH_of: Polynomial, given: _CalibrationEntries, path: Path) -> None:
    """Refuse a polynomial with an extremum between the ratios at the limits of the pH range."""
    # at a ratio of zero the logarithm goes to minus infinity
    first, last = (
        _transform_ratio(given.ratio_range, given.of)
        if given.ratio_range
        else (0.0 if given.of == "ratio" else -np.inf, np.inf)
    )
    ends = [x for x in (first, last) if np.isfinite(x)] + [
        x for pH in given.pH_range for x in _roots(pH_of - pH)
    ]
    reached = [
        x
        for x in ends
        if first <= x <= last and given.pH_range[0] - 1e-6 <= pH_of(x) <= given.pH_range[1] + 1e-6
    ]
    if not reached or min(reached) == max(reached):
        raise InputError(
            "no ratio gives a pH in the range",
            file=path,
            field="coefficients, pH_range",
            found=list(given.coefficients),
            expected=f"pH {given.pH_range[0]:g} to {given.pH_range[1]:g}",
            remedy="Give the coefficient of the lowest power first, and check 'of'.",
        )
    turns = [x for x in _roots(pH_of.deriv()) if min(reached) < x < max(reached)]
    if turns:
        raise InputError(
            "pH is not strictly monotone in the ratio",
            file=path,
            field="coefficients",
            found=f"an extremum at {given.of} {turns[0]:.3g}",
            expected=f"one ratio for every pH of {given.pH_range[0]:g} to {given.pH_range[1]:g}",
            remedy="State the range of measured ratios as ratio_range, or narrow pH_range.",
        )


def _roots(polynomial: Polynomial) -> list[float]:
    """Real roots; rounding may give a double root small imaginary parts."""
    found = np.asarray(polynomial.trim().roots(), dtype=np.complex128)
    return [float(x) for x in found[np.abs(found.imag) < 1e-6 * (1 + np.abs(found))].real]
