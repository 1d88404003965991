"""Pages for developers: their examples run, and the modules they name exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import nanopinn
from nanopinn.parameters import SCALARS
from nanopinn.physics.drug_pools import DRUG_POOLS
from nanopinn.physics.release import RELEASE_LAWS
from nanopinn.physics.species import SPECIES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(nanopinn.__file__).parent
EXTENDING = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = {
    title: "".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))
    for title, text in re.findall(r"^## ([^:\n]+):.*?$(.*?)(?=^## |\Z)", EXTENDING, re.M | re.S)
}


@pytest.fixture
def registries() -> Iterator[None]:
    """Registries as they were, after an example has added to them."""
    before = [
        (registry, dict(registry)) for registry in (DRUG_POOLS, RELEASE_LAWS, SCALARS, SPECIES)
    ]
    yield
    for registry, entries in before:
        registry.clear()
        registry.update(entries)


def test_every_kind_of_extension_has_an_example() -> None:
    kinds = {
        "A formulation",
        "A species",
        "A release law",
        "A kinetic model",
        "An unknown",
        "A tissue pool",
        "A compartment model",
        "An engine",
    }
    assert set(SECTIONS) == kinds
    assert all(SECTIONS.values())


@pytest.mark.parametrize("title", SECTIONS)
def test_the_example_of_an_extension_runs(
    title: str, registries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(SECTIONS[title], f"docs/extending.md, {title}", "exec"), {"__name__": "example"})


def test_the_example_of_a_what_if_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "therapy.md").read_text(encoding="utf-8")
    section = page.partition("## What-ifs")[2].partition("\n## ")[0]
    (example,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    exec(compile(example, "docs/therapy.md, What-ifs", "exec"), {"__name__": "example"})


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/extending.md", "CONTRIBUTING.md"])
def test_every_file_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:nanopinn/|tests/|docs/)?[\w/]+(?:\.py|\.toml|\.csv|/))`", text)
    missing = [
        name
        for name in named
        if not (ROOT / name).exists() and not (PACKAGE / name).exists() and "/" in name
    ]
    assert named
    assert missing == []


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            if not file.exists() or (anchor and anchor not in _anchors(file)):
                broken.append(f"{page.name}: {target}")
    assert broken == []


def _anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
