"""Fixtures that several rooms share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

PUBLIC = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    """A command that runs in the tests' own process leaves its handlers behind, and what is ignored
    here is ignored by every child.
    """
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for s, handler in before.items():
        signal.signal(s, handler)


@pytest.fixture(scope="session")
def public_data() -> Path:
    """The public reference data that lie beside a developer's checkout."""
    if not PUBLIC.is_dir():
        pytest.skip("the public reference data are not beside this checkout (../shared/data)")
    return PUBLIC


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Tests in a window run only when they are asked for by name: they need Qt and a screen, and an
    abort of Qt ends the process.
    """
    gui = Path(__file__).parent / "napari"
    asked = any(
        (Path(config.invocation_params.dir) / a.split("::")[0]).resolve().is_relative_to(gui)
        for a in config.args
    )
    return True if collection_path == gui and not asked else None
