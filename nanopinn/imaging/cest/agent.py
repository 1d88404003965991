"""CEST agents: exchanging proton pools, exchange rates by pH, and agents read from TOML."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.io.safe_open import TomlNumber, check_printable, read_toml

#: A number as TOML writes it: no string, no boolean.


@dataclass(frozen=True)
class ProtonPool:
    """Exchanging protons of one kind.

    Their exchange rate is ``k = k0 + kb 1e7 10^(pH - pKw)``, 1/s.

    Attributes:
        name: of the pool.
        ppm: frequency offset from water.
        protons: number per molecule.
        k0: exchange rate without catalysis by base, 1/s.
        kb: rate of base catalysis at pH = pKw, 1e7 1/s.
    """

    name: str
    ppm: float
    protons: float
    k0: float
    kb: float


@dataclass(frozen=True)
class CestAgent:
    """A contrast agent with one or more pools of exchanging protons.

    Attributes:
        name: of the agent.
        pools: its proton pools.
        ratio_ppm: two frequencies whose contrasts are divided, or one whose contrasts at two powers
            are divided; ppm from water.
        pKw: ionic product of water, -log10.
        water_protons_M: concentration of water protons, M.
        R1_per_s: longitudinal relaxation rate of its protons, 1/s.
        R2_per_s: transverse relaxation rate of its protons, 1/s.
        source: of the numbers.
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
        """Exchange rates ``(..., pool)``, 1/s, at pH ``(...)``."""
        base = 1e7 * 10 ** (pH - self.pKw)
        return torch.stack([p.k0 + p.kb * base for p in self.pools], dim=-1)

    def fractions(self, molar: Tensor) -> Tensor:
        """Protons of each pool over those of water ``(..., pool)``, at ``molar`` ``(...)``, M."""
        return torch.stack([molar * p.protons / self.water_protons_M for p in self.pools], dim=-1)


def load_agent(name_or_file: str | Path) -> CestAgent:
    """Load an agent by name from the package's table, or the single agent of a TOML file.

    Args:
        name_or_file: name of an agent, or a file of the form of ``agents.toml``.

    Raises:
        InputError: there is no such agent, or an entry of the file is missing or wrong.
    """
    path, name = Path(name_or_file), str(name_or_file)
    own = tomllib.loads(
        (files("nanopinn.imaging.cest") / "agents.toml").read_text(encoding="utf-8")
    )
    if name in own:
        return _parse_agent(name, own[name], path)
    if path.suffix != ".toml" and not os.path.lexists(path):
        raise InputError(
            "no such agent",
            field="agent",
            found=name,
            expected=f"{', '.join(own)}, or a TOML file",
            remedy="Check the name.",
        )
    table = read_toml(path, "the agent")
    if len(table) != 1:
        raise InputError(
            "the file does not hold exactly one agent",
            file=path,
            found=len(table),
            expected="one table",
            remedy="Write one agent into each file.",
        )
    name, content = next(iter(table.items()))
    return _parse_agent(name, content, path)


class _Pool(BaseModel):
    """Entries of one proton pool."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Annotated[str, AfterValidator(check_printable)]
    ppm: Annotated[TomlNumber, Field(gt=-30, lt=30)]
    protons: Annotated[TomlNumber, Field(gt=0, le=100)]
    k0: Annotated[TomlNumber, Field(ge=0, le=1e9)]
    kb: Annotated[TomlNumber, Field(ge=0, le=1e12)]


class _AgentEntries(BaseModel):
    """Entries of an agent; further entries are ignored."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    name: Annotated[
        str, StringConstraints(min_length=1, max_length=100), AfterValidator(check_printable)
    ]
    pools: Annotated[tuple[_Pool, ...], Field(min_length=1, max_length=10)]
    ratio_ppm: Annotated[
        tuple[Annotated[TomlNumber, Field(gt=-30, lt=30)], ...], Field(min_length=1, max_length=2)
    ]
    pKw: Annotated[TomlNumber, Field(ge=10, le=18)]
    water_protons_M: Annotated[TomlNumber, Field(gt=0, le=1000)]
    R1_per_s: Annotated[TomlNumber, Field(gt=0, le=1e6)]
    R2_per_s: Annotated[TomlNumber, Field(gt=0, le=1e6)]
    source: Annotated[str, StringConstraints(max_length=500), AfterValidator(check_printable)] = (
        "not stated"
    )


def _parse_agent(name: str, content: Any, path: Path) -> CestAgent:
    """Validate the entries of an agent."""
    try:
        given = _AgentEntries.model_validate(
            {**content, "name": name} if isinstance(content, dict) else content
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            "an entry of the agent is missing or wrong",
            file=path,
            field=".".join((name, *(str(part) for part in first["loc"]))),
            found=None if first["type"] == "missing" else first["input"],
            expected=first["msg"],
            remedy="See nanopinn/imaging/cest/agents.toml for an example.",
        ) from error
    stated = {key: getattr(given, key) for key in _AgentEntries.model_fields}
    return CestAgent(
        **{**stated, "pools": tuple(ProtonPool(**p.model_dump()) for p in given.pools)}
    )
