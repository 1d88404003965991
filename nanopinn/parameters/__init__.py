"""Every physical quantity the package uses: value, range, prior, unit and source, in one table."""

from nanopinn.parameters.table import (
    PARAMETERS,
    Parameter,
    Prior,
    load_table,
    parse_parameter_row,
    value,
)

__all__ = ["PARAMETERS", "Parameter", "Prior", "load_table", "parse_parameter_row", "value"]
