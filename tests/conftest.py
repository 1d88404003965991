"""Fixtures that several rooms share."""

from __future__ import annotations

from pathlib import Path

import pytest

PUBLIC = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def public_data() -> Path:
    """The public reference data that lie beside a developer's checkout."""
    if not PUBLIC.is_dir():
        pytest.skip("the public reference data are not beside this checkout (../shared/data)")
    return PUBLIC
