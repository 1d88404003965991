"""A CEST agent: its exchanging protons, and how fast they exchange at a pH."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.imaging.io import read_text


@dataclass(frozen=True)
class ProtonPool:
    """Protons of one kind; ``k = k0 + kb 1e7 10^(pH - pKw)`` 1/s."""

    name: str
    ppm: float
    protons: float
    k0: float
    kb: float


@dataclass(frozen=True)
class Agent:
    """A contrast agent with several pools.

    Attributes:
        ratio_ppm: the two frequencies whose contrasts are divided; or one, whose contrasts at two powers are.
        R1_per_s, R2_per_s: of its protons.
    """

    name: str
    pools: tuple[ProtonPool, ...]
    ratio_ppm: tuple[float, ...]
    pKw: float
    water_protons_M: float
    R1_per_s: float
    R2_per_s: float
    source: str

    def rates(self, pH: Tensor) -> Tensor:
        """Exchange rates ``(..., pool)``, 1/s."""
        base = 1e7 * 10 ** (pH - self.pKw)
        return torch.stack([p.k0 + p.kb * base for p in self.pools], dim=-1)

    def fractions(self, molar: Tensor) -> Tensor:
        """Protons of each pool over those of water ``(..., pool)``."""
        return torch.stack([molar * p.protons / self.water_protons_M for p in self.pools], dim=-1)


def load_agent(name_or_file: str | Path) -> Agent:
    """An agent by its name in the package's table, or the only one of a TOML file of the same form.

    Raises:
        InputError: there is no such agent, or the file lacks a number.
    """
    path = Path(name_or_file)
    own = tomllib.loads((files("nanopinn.imaging.cest") / "agents.toml").read_text(encoding="utf-8"))
    if str(name_or_file) in own:
        return _parsed(str(name_or_file), own[str(name_or_file)], path)
    if not path.is_file():
        raise InputError(
            "no such agent", field="--agent", found=str(name_or_file), expected=f"{', '.join(own)}, or a TOML file",
            remedy="Check the name.",
        )  # fmt: skip
    try:
        table = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InputError("the agent cannot be read", file=path, found=str(error), expected="TOML", remedy="Correct it.") from error
    if len(table) != 1:
        raise InputError(
            "the file holds no single agent", file=path, found=len(table), expected="one table", remedy="Give one agent a file."
        )
    name, content = next(iter(table.items()))
    return _parsed(name, content, path)


def _parsed(name: str, content: Any, path: Path) -> Agent:
    try:
        places = tuple(float(p) for p in content["ratio_ppm"])
        if len(places) not in (1, 2):
            raise ValueError(f"ratio_ppm has {len(places)} numbers, not 1 or 2")
        return Agent(
            name=name, pools=tuple(ProtonPool(**p) for p in content["pools"]), ratio_ppm=places, pKw=float(content["pKw"]),
            water_protons_M=float(content["water_protons_M"]), R1_per_s=float(content["R1_per_s"]),
            R2_per_s=float(content["R2_per_s"]), source=str(content.get("source", "not stated")),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            "the agent lacks a number or has a wrong one", file=path, field=name, found=str(error),
            expected="pools, ratio_ppm, pKw, water_protons_M, R1_per_s, R2_per_s", remedy="See agents.toml in the package.",
        ) from error  # fmt: skip
