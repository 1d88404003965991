"""Drug in plasma as it was measured in the subject, in place of the population's curve.

Between samples the logarithm of the concentration is linear in time. Before the first sample the
line through the first two is extended to the dose, after the last sample that through the last two.
Every curve is therefore a sequence of exponentials, of which all integrals and convolutions are
exact.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from nanopinn.errors import InputError
from nanopinn.imaging.drug_image import DRUG_UNITS
from nanopinn.io.tables import Table, read_table
from nanopinn.parameters import HOUR, Values, value
from nanopinn.parameters.table import ParameterDistribution
from nanopinn.physics.circulation import PlasmaDrug
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.piecewise_plasma import (
    PiecewisePlasmaCurve,
    curve_through_samples,
    is_superposed,
)
from nanopinn.physics.plasma import Dose
from nanopinn.physics.species import Subject

PlasmaQuantity = Literal["encapsulated", "released", "total"]
_COLUMN = re.compile(
    rf"({'|'.join(get_args(PlasmaQuantity))})_(plasma|blood)_({'|'.join(DRUG_UNITS)})(_sd)?"
)
#: A curve is refused as an error of unit where it exceeds the dose in the plasma volume by the
#: first factor, or where its largest sample differs from the population's by the second, the root
#: of the usual 1,000.
_HIGHEST_OVER_DOSE, _MOST_TO_POPULATION = 3.0, 1000**0.5
#: Lower limit where no population curve is known, from the dose in the plasma volume: drug that
#: leaves plasma fast is far below its dose at the first sample.
_LOWEST_TO_DOSE = 1000.0
#: Least share of the total that is left: noise can make the difference of two samples negative.
_LEAST_SHARE = 1e-3
#: Iterations for the encapsulated part of a total, and their largest relative change at the end.
_MOST_ITERATIONS, _CONVERGED = 50, 1e-10


@dataclass(frozen=True)
class PlasmaSamples:
    """Measured concentrations of one quantity.

    Attributes:
        quantity: encapsulated drug, released (free) drug, or both together.
        concentrations: of plasma, kg/m3.
        relative_sd: standard deviation of every sample over its value.
    """

    quantity: PlasmaQuantity
    concentrations: tuple[float, ...]
    relative_sd: tuple[float, ...]


@dataclass(frozen=True)
class MeasuredPlasma:
    """Drug in plasma at the times of samples.

    Attributes:
        times_s: after the first dose, s, increasing.
        samples: one entry for each quantity that the curves use.
        assumptions: one sentence each.
        file: from which they were read.
    """

    times_s: tuple[float, ...]
    samples: tuple[PlasmaSamples, ...]
    assumptions: tuple[str, ...] = ()
    file: str = "plasma"

    @property
    def quantities(self) -> tuple[PlasmaQuantity, ...]:
        """Quantities that were measured."""
        return tuple(s.quantity for s in self.samples)

    def error_distributions(self) -> dict[str, ParameterDistribution]:
        """Log-normal distribution of the factor on every sample, by ``plasma_QUANTITY_INDEX``."""
        return {
            _error_symbol(s.quantity, i): ParameterDistribution(1.0, sd, sd, logarithmic=True)
            for s in self.samples
            for i, sd in enumerate(np.sqrt(np.log1p(np.square(s.relative_sd))).tolist())
        }

    def event_times(self, doses: Sequence[Dose]) -> tuple[float, ...]:
        """Times at which the curves are not smooth, s, increasing.

        Args:
            doses: of the treatment, in any order.
        """
        return self._curve([1.0] * len(self.times_s), doses).events()

    def describe(self, doses: Sequence[Dose]) -> tuple[str, ...]:
        """How the curves follow from the samples, one sentence each.

        Args:
            doses: of the treatment, in any order.
        """
        infused = any(d.infusion_s > 0 for d in doses)
        found = [
            f"Drug in plasma is measured at {len(self.times_s)} times"
            f" ({' and '.join(self.quantities)}) and replaces the population's curve. It is"
            " log-linear between samples, and mono-exponential after the last two.",
            "Before its first sample it follows the line through the first two back to the end of"
            " the infusion, during which it rises as in one compartment."
            if infused
            else "Before its first sample it follows the line through the first two back to the"
            " dose, so that a faster phase of distribution is not resolved.",
        ]
        if is_superposed(self.times_s, doses):
            found.append(
                "All samples were taken before the second dose; later doses give the same curve, in"
                " proportion to their amounts."
            )
        return (*found, *self.assumptions)

    def plasma(
        self,
        population: PlasmaDrug,
        formulation: Formulation,
        doses: Sequence[Dose],
        values: Values | None = None,
    ) -> PlasmaDrug:
        """Drug in plasma by the samples.

        Released drug that was not measured is the leak of the measured carrier convolved with the
        population's kinetics of free drug, as in :meth:`Formulation.free_impulse_response`.
        Encapsulated drug that was not measured is the total less the released drug.

        Args:
            population: curves of the population after the same doses.
            formulation: the carrier, or free drug if there is none.
            doses: of the treatment, in any order.
            values: of parameters by symbol, in place of the table's; that of
                ``plasma_QUANTITY_INDEX`` multiplies one sample.

        Returns:
            The drug in plasma, with the binding and the releasable share of the population.

        Raises:
            InputError: the quantities do not determine the curves of this formulation.
        """
        check_plasma_quantities(self, (formulation,))
        known = {s.quantity: _perturb_samples(s, values) for s in self.samples}
        if formulation.circulation is None:
            (only,) = known.values()
            return replace(population, free=self._curve(only, doses))
        encapsulated, released = known.get("encapsulated"), known.get("released")
        total = known.get("total")
        if encapsulated is None and released is not None:
            assert total is not None
            encapsulated = _difference(total, released)
        elif released is None and encapsulated is not None and total is not None:
            released = _difference(total, encapsulated)
        if encapsulated is not None and released is not None:
            return replace(
                population,
                encapsulated=self._curve(encapsulated, doses),
                free=self._curve(released, doses),
            )
        if encapsulated is None:
            assert total is not None
            encapsulated = self._encapsulated_of_total(total, formulation, doses, values)
        carrier = self._curve(encapsulated, doses)
        response = formulation.leak_response(_area_per_dose(carrier, doses), values)
        free = carrier.convolved(response)
        return replace(population, encapsulated=carrier, free=free)

    def _encapsulated_of_total(
        self,
        total: Sequence[float],
        formulation: Formulation,
        doses: Sequence[Dose],
        values: Values | None,
    ) -> list[float]:
        """Encapsulated drug at the samples, which with the drug that leaks from it is the total."""
        area = _area_per_dose(self._curve(total, doses), doses)
        response = formulation.leak_response(area, values)
        start = min(d.start_s for d in doses)
        at = torch.tensor(self.times_s, dtype=torch.float64) + start
        found = list(total)
        for _ in range(_MOST_ITERATIONS):
            leaked = self._curve(found, doses).convolved(response)(at).tolist()
            before, found = found, _difference(total, leaked)
            if max(abs(a / b - 1) for a, b in zip(found, before, strict=True)) < _CONVERGED:
                break
        return found

    def _curve(
        self, concentrations: Sequence[float], doses: Sequence[Dose]
    ) -> PiecewisePlasmaCurve:
        """The curve through concentrations (kg/m3) at the samples."""
        return curve_through_samples(self.times_s, concentrations, doses, self.file)


def _error_symbol(quantity: str, index: int) -> str:
    return f"plasma_{quantity}_{index}"


def _perturb_samples(samples: PlasmaSamples, values: Values | None) -> list[float]:
    """Concentrations times the factors of their errors, kg/m3."""
    factors = values or {}
    return [
        c * float(factors.get(_error_symbol(samples.quantity, i), 1.0))
        for i, c in enumerate(samples.concentrations)
    ]


def _area_per_dose(curve: PiecewisePlasmaCurve, doses: Sequence[Dose]) -> float:
    """Area over the amount that was given, s/m3."""
    return curve.area() / sum(d.amount_kg for d in doses)


def _difference(total: Sequence[float], part: Sequence[float]) -> list[float]:
    """The rest of a total, at least a small share of it."""
    return [max(t - p, _LEAST_SHARE * t) for t, p in zip(total, part, strict=True)]


def read_plasma(path: Path | Table, haematocrit: float | None = None) -> MeasuredPlasma:
    """Read measured concentrations in plasma or blood.

    The first column is ``time_h``, h after the first dose. Every other column is named
    ``QUANTITY_MATRIX_UNIT``, as ``total_plasma_ug/mL``, with the quantity ``encapsulated``,
    ``released`` or ``total`` and the matrix ``plasma`` or ``blood``; the same name and ``_sd`` is
    the column of its standard deviations. Blood is converted by ``1/(1 - Hct)``, because blood
    cells hold little of the drug in comparison.

    Args:
        path: TSV/CSV, or a table in memory.
        haematocrit: fraction, for blood.

    Raises:
        InputError: a column is missing, unknown or double, times do not increase, a value is not
            positive, there are too few samples, the last do not fall, or the haematocrit of blood
            is unknown.
    """
    table = read_table(path)
    columns = _parse_header(table)
    problem = "the measured plasma curve holds a value that is not a number"
    times = table.numbers("time_h", problem) * HOUR
    if len(times) < 2 or times[0] < 0 or np.any(np.diff(times) <= 0):
        raise InputError(
            "the times of the plasma samples cannot be used",
            file=table.path,
            field="time_h",
            found=", ".join(f"{t / HOUR:g}" for t in times[:6]) or "no rows",
            expected="2 or more, from 0 on, each later than the one before",
            remedy="Sort the rows by time, and leave out samples before the first dose.",
        )
    samples, notes = [], []
    for name, (quantity, matrix, unit) in columns.items():
        c = table.numbers(name, problem)
        _check_positive(c, table.path, name, "Leave out samples below the limit of quantification.")
        _check_falls(c, table.path, name)
        sd = np.full_like(c, value("error_plasma_assay"))
        if (stated := f"{name}_sd") in table.header:
            sd = table.numbers(stated, problem) / c
            _check_positive(sd, table.path, stated, "Leave out the column if errors are unknown.")
        else:
            notes.append(
                f"Samples of {quantity} drug in plasma have no stated error; that of"
                f" {value('error_plasma_assay'):.0%} each is assumed, the usual limit of"
                " bioanalytical methods."
            )
        factor = DRUG_UNITS[unit]
        if matrix == "blood":
            factor /= 1 - _check_haematocrit(haematocrit, table.path, name)
            notes.append(
                f"{quantity.capitalize()} drug was measured in blood; drug in plasma alone and a"
                f" haematocrit of {haematocrit:.2g} are assumed."
            )
        samples.append(PlasmaSamples(quantity, tuple((c * factor).tolist()), tuple(sd.tolist())))
    if len(samples) == len(get_args(PlasmaQuantity)):
        samples = [s for s in samples if s.quantity != "total"]
        notes.append("Total drug in plasma is not used, because both its parts were measured.")
    return MeasuredPlasma(tuple(times.tolist()), tuple(samples), tuple(notes), str(table.path))


def _parse_header(table: Table) -> dict[str, tuple[PlasmaQuantity, str, str]]:
    """Quantity, matrix and unit of every column of concentrations."""
    found: dict[str, tuple[PlasmaQuantity, str, str]] = {}
    expected = (
        "time_h, then encapsulated, released or total, as total_plasma_ug/mL, with _sd for its"
        f" standard deviation; units {', '.join(DRUG_UNITS)}"
    )
    problem = None
    for name in table.header[1:]:
        match = _COLUMN.fullmatch(name)
        if match is None or (match[4] and name.removesuffix("_sd") not in table.header):
            problem = ("the measured plasma curve has an unknown column", name)
            break
        if match[4]:
            continue
        if any(q == match[1] for q, _, _ in found.values()):
            problem = ("the measured plasma curve has a quantity twice", name)
            break
        found[name] = (match[1], match[2], match[3])  # type: ignore[assignment]
    if table.header[:1] != ("time_h",) or (problem is None and not found):
        problem = ("the measured plasma curve lacks its columns", ", ".join(table.header) or "none")
    if problem is not None:
        raise InputError(
            problem[0],
            file=table.path,
            field="header",
            found=problem[1][:200],
            expected=expected,
            remedy="Give the columns these names.",
        )
    return found


def _check_positive(found: np.ndarray, path: Path, name: str, remedy: str) -> None:
    if not (found > 0).all():
        raise InputError(
            "a value of the measured plasma curve is not positive",
            file=path,
            field=name,
            found=f"row {int(found.argmin()) + 1}",
            expected="positive numbers",
            remedy=remedy,
        )


def _check_falls(c: np.ndarray, path: Path, name: str) -> None:
    if c[-1] >= c[:-1].max():
        raise InputError(
            "the measured plasma curve does not fall",
            file=path,
            field=name,
            found=f"{c[-1]:g} at the last sample, its largest value",
            expected="a last sample below an earlier one, from which it can be extended",
            remedy="Add later samples.",
        )


def _check_haematocrit(haematocrit: float | None, path: Path, name: str) -> float:
    if haematocrit is None or not 0 < haematocrit < 1:
        raise InputError(
            "drug in blood needs the haematocrit",
            file=path,
            field=name,
            found=haematocrit,
            expected="a haematocrit between 0 and 1",
            remedy="Give the species or the haematocrit, or concentrations in plasma.",
        )
    return haematocrit


def check_plasma_quantities(measured: MeasuredPlasma, formulations: Sequence[Formulation]) -> None:
    """Check that the measured quantities determine the curves of what is given.

    Args:
        measured: the samples.
        formulations: that are given.

    Raises:
        InputError: they do not.
    """
    known = set(measured.quantities)
    carrier = any(f.circulation for f in formulations)
    free = any(f.circulation is None for f in formulations)
    if not carrier:
        usable, expected = len(known) == 1 and "encapsulated" not in known, "released or total"
    elif free:
        usable, expected = "released" in known and len(known) == 2, "released and another quantity"
    else:
        usable, expected = known != {"released"}, "encapsulated, total, or released with either"
    if not usable:
        raise InputError(
            "the measured plasma curve does not suit what is given",
            file=measured.file,
            field="plasma",
            found=" and ".join(measured.quantities),
            expected=f"{expected}, for {' and '.join(f.name for f in formulations)}",
            remedy="Give columns of these quantities.",
        )


def check_measured_plasma(
    measured: MeasuredPlasma,
    doses: Sequence[Dose],
    subject: Subject,
    population: PlasmaDrug | None = None,
    first_image_s: float | None = None,
) -> None:
    """Check that measured concentrations are plausible for the dose, and begin before the images.

    Args:
        measured: the samples.
        doses: of the treatment, in any order.
        subject: to whom they are given.
        population: curves of the population after the same doses; None if unknown.
        first_image_s: time of the first drug image after the first dose, s; None without images.

    Raises:
        InputError: the concentrations are not plausible, most likely by their unit, or the first
            sample is later than the first image.
    """
    if first_image_s is not None and measured.times_s[0] > first_image_s:
        raise InputError(
            "the plasma samples start after the first drug image",
            file=measured.file,
            field="time_h",
            found=f"{measured.times_s[0] / HOUR:g} h after the first dose",
            expected=f"a sample by {first_image_s / HOUR:g} h, the time of the first image",
            remedy="Add an earlier sample, or leave the file out and use the population's curve.",
        )
    undiluted = sum(d.amount_kg for d in doses) / (
        value(subject.species.plasma_volume) * subject.weight_kg
    )
    at = torch.tensor(measured.times_s, dtype=torch.float64) + min(d.start_s for d in doses)
    for samples in measured.samples:
        curve = measured._curve(samples.concentrations, doses)
        events = torch.tensor(curve.events(), dtype=torch.float64)
        largest = max(float(curve(events).max()), *samples.concentrations)
        lowest, highest = undiluted / _LOWEST_TO_DOSE, undiluted * _HIGHEST_OVER_DOSE
        reference = max(samples.concentrations)
        if population is not None:
            expected = {
                "encapsulated": population.encapsulated(at),
                "released": population.free(at),
                "total": population.encapsulated(at) + population.free(at),
            }[samples.quantity]
            typical = float(expected.max())
            lowest, highest = typical / _MOST_TO_POPULATION, typical * _MOST_TO_POPULATION
        if samples.quantity == "released" and len(measured.samples) > 1:
            lowest, highest = 0.0, undiluted  # a carrier may release very little, or all
        if largest > _HIGHEST_OVER_DOSE * undiluted or not lowest <= reference <= highest:
            raise InputError(
                "the measured drug in plasma is not plausible for the dose",
                file=measured.file,
                field=samples.quantity,
                found=f"up to {largest * 1e3:.3g} ug/mL",
                expected=(
                    f"{lowest * 1e3:.2g} to {highest * 1e3:.2g} ug/mL at the samples (the dose in"
                    f" the plasma volume gives {undiluted * 1e3:.2g} ug/mL)"
                ),
                remedy="Check the unit in the header, `drug_dose`, `species` and the weight.",
            )
