"""Formulations by name, or from a file of the user's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nanopinn.errors import InputError
from nanopinn.imaging.given import read_toml
from nanopinn.physics.formulation import FORMULATIONS, packaged_formulation
from nanopinn.physics.formulation_file import parse_formulation
from nanopinn.physics.vehicle import Formulation


def find_formulation(
    name: str, folder: Path = Path(), *, file: Path | None = None, field: str = "formulation"
) -> Formulation:
    """A formulation by its name or alias, or from a TOML file.

    Args:
        name: one that the package knows, or the path of a .toml file, from ``folder`` on.
        file, field: that are named in errors.

    Raises:
        InputError: no formulation has the name, or as :func:`read_formulation`.
    """
    if (known := packaged_formulation(name.strip())) is not None:
        return known
    if name.strip().endswith(".toml"):
        return read_formulation(folder / name.strip())
    names = (
        f.name + (f" ({', '.join(f.aliases)})" if f.aliases else "") for f in FORMULATIONS.values()
    )
    raise InputError(
        "unknown formulation",
        file=file,
        field=field,
        found=name,
        expected=f"{', '.join(names)}, or a .toml file",
        remedy="A file of your own may describe one: see docs/formulations.",
    )


def read_formulation(path: str | Path) -> Formulation:
    """The formulation that a TOML file describes: see docs/formulations.

    Raises:
        InputError: the file cannot be read, its name is taken by one of the package's, or an entry is wrong; says which.
    """
    path = Path(path)
    found = parse_formulation(read_toml(path, "the formulation"), path)
    taken = next(
        (n for n in (found.name, *found.aliases) if packaged_formulation(n) is not None), None
    )
    if taken is not None:
        raise InputError(
            "the name is that of a packaged formulation",
            file=path,
            field="name",
            found=taken,
            remedy="Choose another.",
        )
    return replace(found, file=path)
