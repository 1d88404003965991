"""Kinetic models, one module each. A new module in this folder needs no registration."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import cast

from nanopinn.imaging.dce.impulse_response import KineticModel


def discover_models() -> dict[str, KineticModel]:
    """The models of this folder by name, from the fewest to the most parameters."""
    names = sorted(m.name for m in iter_modules(__path__))
    found = [cast(KineticModel, import_module(f"{__name__}.{name}")) for name in names]
    return {m.NAME: m for m in sorted(found, key=lambda m: len(m.NAMES))}


#: Every kinetic model by name.
MODELS = discover_models()
