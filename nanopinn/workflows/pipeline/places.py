"""Where the workflows and their profiles lie, in a checkout as in an installed package."""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from nanopinn.errors import InputError

PROFILES = ("local", "slurm")


def pipelines_folder() -> Path:
    """The folder ``pipelines``.

    Raises:
        InputError: it is not there, or Snakemake is not.
    """
    folder = Path(str(files("nanopinn") / "pipelines")).resolve()
    if not (folder / "cohort" / "Snakefile").is_file():
        raise InputError(
            "the workflows are missing from this installation",
            file=folder,
            remedy="Install nanopinn anew.",
        )
    if find_spec("snakemake") is None:
        raise InputError("Snakemake is not installed", remedy="pip install 'nanopinn[pipelines]'.")
    return folder


def profile_folder(name: str) -> Path:
    """The folder of a profile: one of :data:`PROFILES`, or a folder of the user's.

    Raises:
        InputError: there is none.
    """
    folder = pipelines_folder() / "profiles" / name if name in PROFILES else Path(name).absolute()
    if not any((folder / file).is_file() for file in ("config.yaml", "profile.yaml")):
        expected = f"{', '.join(PROFILES)}, or a folder with a config.yaml"
        raise InputError(
            "there is no such profile", field="--profile", found=name, expected=expected
        )
    return folder
