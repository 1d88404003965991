"""The registry of unknowns: every scalar and spatial multiplier of the tumour model, defined once.

A fit may estimate every scalar; a formulation may replace those that describe its carrier. To add a
scalar, add its definition to :data:`SCALARS` and use it in the physics; a scalar that multiplies a
parameter of the table (``multiplies``) needs the definition alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nanopinn.parameters.table import PARAMETERS, Prior, value
from nanopinn.parameters.units import HOUR, MMHG

#: What a scalar describes: interstitial flow, transport of the carrier through the vessel wall, its
#: release, or uptake by cells. Only drug images depend on the last three.
ScalarGroup = Literal["flow", "carrier", "release", "cells"]
#: What a formulation must be for a scalar to act: any, one with a carrier, one that acid triggers,
#: a carrier that acid does not trigger, or free drug.
FormulationKind = Literal["any", "carrier", "acid", "no acid", "free"]


@dataclass(frozen=True)
class PhantomDistribution:
    """How a phantom draws the true value of a scalar.

    Attributes:
        sd: of the natural logarithm, or of the value where the prior is Gaussian in the value.
        position: of its random number in the sequence of a seed. New scalars come last, so that
            phantoms of earlier versions keep their values.
        median: SI; the default of the scalar if None.
    """

    sd: float
    position: int
    median: float | None = None


@dataclass(frozen=True)
class ScalarDefinition:
    """Definition of a scalar of the model that a fit may estimate.

    Attributes:
        name: key among the scalars of the model.
        label: name in tables and figures.
        unit: customary unit.
        per_unit: customary value = SI value times this.
        group: what it describes.
        needs: what a formulation must be for drug images to depend on it.
        symbol: row of the parameter table with its default and prior; None where the definition
            states both.
        factor_symbol: row whose value multiplies the default; none if None.
        multiplies: symbol of the parameter that the model multiplies by the scalar; None where the
            physics uses the scalar itself.
        phantom: how a phantom draws its true value; the default if None.
        stated_default: SI, where the table has no row.
        stated_prior: where the table has no row.
        affects_grid_error: whether the effect of the discretisation depends on it. Images determine
            pK_rel and K_ratio_n so weakly that they vary by a prior sd between iterations; that
            changes the discretisation effect on l by 0.2 and 0.4 posterior sd of 4.5, less than the
            tolerance of 1.8. p_e affects no image.
    """

    name: str
    label: str
    unit: str
    per_unit: float
    group: ScalarGroup
    symbol: str | None = None
    factor_symbol: str | None = None
    multiplies: str | None = None
    phantom: PhantomDistribution | None = None
    stated_default: float | None = None
    stated_prior: Prior | None = None
    affects_grid_error: bool = True
    needs: FormulationKind = "any"

    @property
    def default(self) -> float:
        """Default value, SI, which is the median of the prior."""
        if self.symbol is None:
            assert self.stated_default is not None, f"{self.name} has no default"
            return self.stated_default
        factor = 1.0 if self.factor_symbol is None else value(self.factor_symbol)
        return value(self.symbol) * factor

    @property
    def prior(self) -> Prior:
        """Distribution of the value, or of its logarithm, before the data."""
        prior = self.stated_prior if self.symbol is None else PARAMETERS[self.symbol].prior
        assert prior is not None, f"{self.name} has no prior"
        return prior

    @property
    def scale(self) -> Literal["log", "linear"]:
        """The coordinate of a fit: the logarithm of the SI value, or the value."""
        return "log" if self.prior.kind == "lognormal" else "linear"


#: Every scalar in the order of the coordinates of a fit, by name.
SCALARS: dict[str, ScalarDefinition] = {
    s.name: s
    for s in (
        ScalarDefinition(
            name="l",
            label="hydraulic length sqrt(K/(Lp S/V))",
            unit="mm",
            per_unit=1e3,
            group="flow",
            symbol="l_t",
            phantom=PhantomDistribution(0.3, position=9, median=0.8e-3),
        ),
        ScalarDefinition(
            name="q",
            label="maximum filtration rate",
            unit="1/h",
            per_unit=HOUR,
            group="flow",
            symbol="LpSV_t",
            factor_symbol="p_e",
            phantom=PhantomDistribution(0.35, position=0),
        ),
        ScalarDefinition(
            name="PS_l",
            label="liposome permeability PS_l",
            unit="1/h",
            per_unit=HOUR,
            group="carrier",
            symbol="PS_l",
            needs="carrier",
            phantom=PhantomDistribution(0.5, position=3),
        ),
        ScalarDefinition(
            name="leak_l",
            label="solvent-drag transmission 1 - sigma",
            unit="1",
            per_unit=1.0,
            group="carrier",
            symbol="leak_l",
            needs="carrier",
            phantom=PhantomDistribution(0.2, position=4),
        ),
        ScalarDefinition(
            name="f_l",
            label="liposome convective retardation",
            unit="1",
            per_unit=1.0,
            group="carrier",
            symbol="f_l",
            needs="carrier",
            phantom=PhantomDistribution(0.15, position=5),
        ),
        ScalarDefinition(
            name="krel_ref",
            label="release rate at pH 6.8",
            unit="1/h",
            per_unit=HOUR,
            group="release",
            symbol="krel_ref",
            needs="acid",
            phantom=PhantomDistribution(0.5, position=6),
        ),
        ScalarDefinition(
            name="pK_rel",
            label="release midpoint pK",
            unit="pH",
            per_unit=1.0,
            group="release",
            symbol="pK_rel",
            needs="acid",
            phantom=PhantomDistribution(0.15, position=8),
            affects_grid_error=False,
        ),
        ScalarDefinition(
            name="k_on_DNA",
            label="nuclear binding rate",
            unit="1/h",
            per_unit=HOUR,
            group="cells",
            symbol="k_on_DNA",
            phantom=PhantomDistribution(0.3, position=7),
        ),
        ScalarDefinition(
            name="K_ratio_n",
            label="conductivity normal / tumour",
            unit="1",
            per_unit=1.0,
            group="flow",
            symbol="K_ratio_n",
            phantom=PhantomDistribution(0.2, position=2),
            affects_grid_error=False,
        ),
        ScalarDefinition(
            name="p_e",
            label="driving pressure p_e",
            unit="mmHg",
            per_unit=1 / MMHG,
            group="flow",
            symbol="p_e",
            phantom=PhantomDistribution(0.2, position=1),
            affects_grid_error=False,
        ),
        ScalarDefinition(
            name="leak_factor",
            label="release rate of the carrier over its stated leak",
            unit="1",
            per_unit=1.0,
            group="release",
            stated_default=1.0,
            stated_prior=Prior("lognormal", 1.2),
            needs="no acid",
        ),
        ScalarDefinition(
            name="P_f_factor",
            label="wall permeability to free drug over its table value",
            unit="1",
            per_unit=1.0,
            group="carrier",
            multiplies="P_f_t",
            stated_default=1.0,
            stated_prior=Prior("lognormal", 0.8),
            needs="free",
        ),
    )
}

#: Multipliers of a tissue property that vary in space, with the property that each multiplies.
MULTIPLIERS = {
    "conductivity": "hydraulic conductivity K",
    "filtration": "wall filtration Lp S/V",
    "permeability": "carrier permeability PS_l",
    "release": "release rate",
}
#: Weights of the monotone warp of pH in the release law (:func:`nanopinn.physics.release.warp_ph`).
RELEASE_LAW = "release law"
#: Fluid that enters through a face of the box that cuts the tumour, velocity over ``q l``.
INFLOW = "inflow"

_RELEASE_MULTIPLIER_PREFIX = "release_"


def release_multiplier_name(segment: int) -> str:
    """Name of the scalar that multiplies the release rate in a time segment.

    The first segment, number 0, has no multiplier: it would be exactly correlated with the rate.
    """
    return f"{_RELEASE_MULTIPLIER_PREFIX}{segment}"


def is_release_multiplier(name: str) -> bool:
    """Whether a scalar multiplies the release rate in one time segment."""
    return name.startswith(_RELEASE_MULTIPLIER_PREFIX)


def default_scalars() -> dict[str, float]:
    """Default values of the scalars, SI."""
    return {name: s.default for name, s in SCALARS.items()}


def scalars_in_group(*groups: ScalarGroup) -> tuple[str, ...]:
    """Names of the scalars of some groups."""
    return tuple(name for name, s in SCALARS.items() if s.group in groups)


def scalars_of_formulation(*, carrier: bool, acid: bool) -> tuple[ScalarDefinition, ...]:
    """Scalars on which a study with a formulation depends, in the order of the registry.

    Args:
        carrier: whether the drug is inside carriers.
        acid: whether acid triggers their release.
    """
    acting: set[FormulationKind] = {"any"}
    acting |= {"carrier", "acid" if acid else "no acid"} if carrier else {"free"}
    return tuple(s for s in SCALARS.values() if s.needs in acting)


def drug_only_scalars() -> frozenset[str]:
    """Scalars on which only drug images depend; without these images they keep their priors."""
    return frozenset(scalars_in_group("carrier", "release", "cells"))


def multipliers_of(symbol: str) -> tuple[str, ...]:
    """Names of the scalars that multiply a parameter of the table."""
    return tuple(name for name, s in SCALARS.items() if s.multiplies == symbol)


def draw_phantom_scalars(
    rng: np.random.Generator, given: Mapping[str, float] | None = None
) -> dict[str, float]:
    """True scalars of a phantom.

    Args:
        rng: one random number is drawn per scalar with a distribution.
        given: values, SI, that replace drawn ones.

    Returns:
        SI values by name.
    """
    drawn = [(s, s.phantom) for s in SCALARS.values() if s.phantom is not None]
    found = default_scalars()
    for s, distribution in sorted(drawn, key=lambda pair: pair[1].position):
        deviate = distribution.sd * float(rng.standard_normal())
        median = s.default if distribution.median is None else distribution.median
        found[s.name] = median * float(np.exp(deviate)) if s.scale == "log" else median + deviate
    return found | dict(given or {})
