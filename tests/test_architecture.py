"""The contract of the rooms: order of imports, no circles, one name a module, sizes.

Imports are read from the source, those inside functions and under ``TYPE_CHECKING`` included.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import nanopinn

PACKAGE = Path(nanopinn.__file__).parent

#: Rooms from the lowest to the highest; a module imports from its own room and lower rooms alone.
ROOMS: tuple[tuple[str, ...], ...] = (
    ("errors", "progress", "settings"),
    ("parameters",),
    ("io",),
    ("imaging",),
    ("physics",),
    ("solvers",),
    ("results",),
    ("learned",),
    ("inference",),
    ("report",),
    ("phantoms", "studies", "verification", "cohort"),
    ("api",),
    ("cli", "napari_plugin", "__main__"),
)
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
#: Studies of any treatment and species added 28 modules to the 198 of the redesign, with about as
#: many imports each.
MOST_MODULES, MOST_LINES, MOST_EDGES = 230, 450, 1300


@cache
def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    return {
        ".".join(("nanopinn", *p.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): p
        for p in PACKAGE.rglob("*.py")
    }


def imported(module: str) -> Iterator[str]:
    """Modules of the package that a module imports anywhere in its source."""
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module in modules():
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                yield inner if inner in modules() else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in modules())


@cache
def graph() -> dict[str, frozenset[str]]:
    """What each module imports, itself left out."""
    return {m: frozenset(imported(m)) - {m} for m in modules()}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_room_has_its_place() -> None:
    assert {room(m) for m in modules()} - {""} <= set(LEVEL)


def test_imports_go_downward_only() -> None:
    upward = [
        f"{m} imports {target}"
        for m, targets in graph().items()
        for target in targets
        if room(m) and room(target) and LEVEL[room(target)] > LEVEL[room(m)]
    ]
    assert not upward


def test_the_top_of_the_package_gives_the_version_alone() -> None:
    """Everything else there is public names for users, found when they are asked for."""
    taken = {
        name.name
        for p in modules().values()
        for node in ast.walk(ast.parse(p.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "nanopinn"
        for name in node.names
        if f"nanopinn.{name.name}" not in modules()
    }
    assert taken <= {"__version__"}


def test_no_circle_of_modules() -> None:
    try:
        tuple(TopologicalSorter(graph()).static_order())
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_no_two_modules_share_a_name() -> None:
    names = Counter(p.stem for p in modules().values() if p.stem != "__init__")
    assert [name for name, count in names.items() if count > 1] == []


def test_modules_are_few_and_of_readable_size() -> None:
    """Counted without the ``__init__`` of each folder, as the limits were set."""
    files = {m for m, p in modules().items() if p.stem != "__init__"}
    lines = {m: len(modules()[m].read_text(encoding="utf-8").splitlines()) for m in files}
    assert {m: n for m, n in lines.items() if n > MOST_LINES} == {}
    assert len(files) <= MOST_MODULES
    assert sum(len(graph()[m] & files) for m in files) <= MOST_EDGES


def test_no_line_is_exempt_from_the_formatter() -> None:
    assert [m for m, p in modules().items() if "fmt: skip" in p.read_text(encoding="utf-8")] == []


def test_no_public_class_name_is_used_twice() -> None:
    classes = Counter(
        node.name
        for p in modules().values()
        for node in ast.parse(p.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in classes.items() if count > 1] == []


def test_lower_rooms_name_no_command_line_option() -> None:
    """Refusals name the field of the API; the command line translates it."""
    option = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
    found = []
    for m, path in modules().items():
        if room(m) in ("cli", "napari_plugin", "__main__", "", "cohort"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found += [f"{m}:{node.lineno} {hit}" for hit in option.findall(node.value)]
    assert found == []
