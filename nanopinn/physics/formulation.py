"""The formulations that the package knows, from the files beside it."""

from __future__ import annotations

import tomllib
from importlib.resources import files

from nanopinn.physics.carrier import AcidTrigger, Circulation, HeatTrigger, PlasmaDrug
from nanopinn.physics.formulation_file import parse_formulation
from nanopinn.physics.vehicle import Formulation

__all__ = [
    "FORMULATIONS",
    "FREE",
    "PEGYLATED",
    "PH_SENSITIVE",
    "THERMOSENSITIVE",
    "AcidTrigger",
    "Circulation",
    "Formulation",
    "HeatTrigger",
    "PlasmaDrug",
    "packaged_formulation",
]


def _read_packaged_formulation(name: str) -> Formulation:
    text = (
        files("nanopinn.physics")
        .joinpath("formulations", f"{name}.toml")
        .read_text(encoding="utf-8")
    )
    return parse_formulation(tomllib.loads(text), f"{name}.toml")


FREE, PEGYLATED, PH_SENSITIVE, THERMOSENSITIVE = (
    _read_packaged_formulation(name) for name in ("free", "pld", "ph", "tsl")
)

#: By the long name that schedules may use.
FORMULATIONS = {f.name: f for f in (FREE, PEGYLATED, PH_SENSITIVE, THERMOSENSITIVE)}


def packaged_formulation(name: str) -> Formulation | None:
    """A packaged formulation by its name or an alias of it, in capitals or not; None if there is none."""
    wanted = name.casefold()
    return next(
        (
            f
            for f in FORMULATIONS.values()
            if wanted in {n.casefold() for n in (f.name, *f.aliases)}
        ),
        None,
    )
