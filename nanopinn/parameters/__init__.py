"""Every physical quantity the package uses: value, range, prior, unit and source, in one table."""

from nanopinn.parameters.table import (
    KNOWN_UNITS,
    PARAMETERS,
    RANGE_INTERPRETATION,
    Z95,
    Number,
    Parameter,
    Prior,
    QuantitySpecification,
    Values,
    load_table,
    parameter_distribution,
    parameter_lookup,
    parse_parameter_row,
    scalar_lookup,
    value,
)
from nanopinn.parameters.units import (
    DAY,
    HOUR,
    MG,
    MINUTE,
    MM,
    MMHG,
    NG,
    UG_H_PER_ML,
    UG_PER_ML,
    UM,
    ZERO_CELSIUS,
)
from nanopinn.parameters.unknown_registry import (
    INFLOW,
    MULTIPLIERS,
    RELEASE_LAW,
    SCALARS,
    PhantomDistribution,
    ScalarDefinition,
    default_scalars,
    draw_phantom_scalars,
    drug_only_scalars,
    is_release_multiplier,
    multipliers_of,
    release_multiplier_name,
    scalars_in_group,
)

__all__ = ["DAY", "HOUR", "INFLOW", "KNOWN_UNITS", "MG", "MINUTE", "MM", "MMHG", "MULTIPLIERS", "NG", "PARAMETERS", "RANGE_INTERPRETATION", "RELEASE_LAW", "SCALARS", "UG_H_PER_ML", "UG_PER_ML", "UM", "Z95", "ZERO_CELSIUS", "Number", "Parameter", "PhantomDistribution", "Prior", "QuantitySpecification", "ScalarDefinition", "Values", "default_scalars", "draw_phantom_scalars", "drug_only_scalars", "is_release_multiplier", "load_table", "multipliers_of", "parameter_distribution", "parameter_lookup", "parse_parameter_row", "release_multiplier_name", "scalar_lookup", "scalars_in_group", "value"]
