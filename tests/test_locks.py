"""The lock files hold the requirements of pyproject.toml, each package once and by hash."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "locks"))
from lock import LAYERS, read_requirements  # noqa: E402

LINE = re.compile(r"([a-z0-9-]+)==(\S+) --hash=sha256:[0-9a-f]{64}")


def locked(layer: str) -> dict[str, str]:
    """Versions by name of a layer and of those before it."""
    layers = list(LAYERS)
    lines = [
        line
        for name in layers[: layers.index(layer) + 1]
        for line in (ROOT / "locks" / f"{name}.txt").read_text().splitlines()
    ]
    found = [LINE.fullmatch(line) for line in lines if not line.startswith("#")]
    assert all(found), "a line without one version and one hash"
    names = [match[1] for match in found if match]
    assert len(names) == len(set(names)), "a package in two layers"
    return {match[1]: match[2] for match in found if match}


@pytest.mark.parametrize("layer", LAYERS)
def test_requirements_of_pyproject_are_locked(layer: str) -> None:
    versions = locked(layer)
    for text in read_requirements(LAYERS[layer]):
        asked = Requirement(text)
        if asked.marker is None or asked.marker.evaluate():
            found = versions.get(canonicalize_name(asked.name))
            assert found is not None, (
                f"pyproject.toml asks for {text}, locks/{layer}.txt does not hold it: make lock"
            )
            fits = asked.specifier.contains(found, prereleases=True)
            assert fits, (
                f"locks hold {asked.name} {found}, pyproject.toml asks for {text}: make lock"
            )


def test_cpu_lock_holds_no_gpu_package() -> None:
    versions = locked("gui")
    assert versions["torch"].endswith("+cpu")
    assert not [
        name for name in versions if name.startswith(("nvidia", "cuda", "triton", "torchvision"))
    ]
    assert f"torch=={versions['torch']}" in (ROOT / "constraints-cpu.txt").read_text()
