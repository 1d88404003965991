"""The formulations that the package contains, by name.

They are the TOML files in ``formulations``; adding one takes one file in that folder.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files
from importlib.resources.abc import Traversable

from nanopinn.errors import InputError
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.formulation_file import parse_formulation


def read_formulation_folder(folder: Traversable) -> dict[str, Formulation]:
    """Read every TOML file of a folder.

    Args:
        folder: of formulation files; a :class:`pathlib.Path` or a resource of a package.

    Returns:
        The formulations by name, in alphabetical order.

    Raises:
        InputError: a file cannot be parsed, or two files share a name or an alias.
    """
    found: dict[str, Formulation] = {}
    names: dict[str, str] = {}
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".toml"):
            continue
        formulation = parse_formulation(tomllib.loads(file.read_text(encoding="utf-8")), file.name)
        for name in {n.casefold() for n in (formulation.name, *formulation.aliases)}:
            if name in names:
                raise InputError(
                    "two formulations have the same name",
                    file=file.name,
                    field="name",
                    found=name,
                    remedy=f"Change the name here or in {names[name]}.",
                )
            names[name] = file.name
        found[formulation.name] = formulation
    return {name: found[name] for name in sorted(found, key=str.casefold)}


#: The formulations of the package by name.
FORMULATIONS = read_formulation_folder(files("nanopinn.physics").joinpath("formulations"))
FREE = FORMULATIONS["free"]
PEGYLATED = FORMULATIONS["pegylated"]
PH_SENSITIVE = FORMULATIONS["pH-sensitive"]
THERMOSENSITIVE = FORMULATIONS["thermosensitive"]


def packaged_formulation(name: str) -> Formulation | None:
    """A packaged formulation by its name or alias, in any case; None if there is none."""
    wanted = name.casefold()
    return next(
        (
            f
            for f in FORMULATIONS.values()
            if wanted in {n.casefold() for n in (f.name, *f.aliases)}
        ),
        None,
    )
