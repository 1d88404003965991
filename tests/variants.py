"""A test of many variants of one kind of input, counted once.

``@for_each("text", [...])`` stands where ``@pytest.mark.parametrize`` would make one item of every
variant: the test runs with all of them, and its failure names each variant that failed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

#: Longest name of a variant, characters.
_MAX_LABEL = 100


def for_each(names: str, variants: Iterable[Any]) -> Callable[[Callable[..., None]], Any]:
    """Run a test once with all variants.

    A variant has its own folder of ``tmp_path``, its own ``monkeypatch`` and nothing left from the
    variant before in ``capsys``. Two such decorators run every pair.

    Args:
        names: the argument of the test, or several with commas.
        variants: its values; tuples where there are several arguments.

    Returns:
        The test without these arguments.
    """
    arguments = [n.strip() for n in names.split(",")]
    listed = list(variants)
    assert listed, "no variants"

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        known = inspect.signature(test).parameters
        assert set(arguments) <= set(known), f"{test.__name__} has no argument {names}"

        def run(**fixtures: Any) -> None:
            failed: dict[str, BaseException] = {}
            for number, variant in enumerate(listed):
                values = variant if len(arguments) > 1 else (variant,)
                given = dict(zip(arguments, values, strict=True))
                try:
                    _run_one(test, given, fixtures, number)
                except (Exception, pytest.fail.Exception) as error:
                    failed[f"{number}: {_label(variant)}"] = error
            if failed:
                lines = [f"  {label}: {error}" for label, error in failed.items()]
                message = f"{len(failed)} of {len(listed)} variants failed:\n" + "\n".join(lines)
                raise AssertionError(message) from next(iter(failed.values()))

        run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
                for name, p in known.items()
                if name not in arguments
            ]
        )
        run.pytestmark = list(getattr(test, "pytestmark", []))  # type: ignore[attr-defined]
        return run

    return decorate


def _run_one(
    test: Callable[..., None], given: dict[str, Any], fixtures: dict[str, Any], number: int
) -> None:
    """Run a test with one variant and fixtures that no other variant has touched."""
    used = dict(fixtures)
    if isinstance(used.get("tmp_path"), Path):
        used["tmp_path"] = used["tmp_path"] / str(number)
        used["tmp_path"].mkdir()
    if "capsys" in used:
        used["capsys"].readouterr()
    with pytest.MonkeyPatch.context() as patched:
        if "monkeypatch" in used:
            used["monkeypatch"] = patched
        test(**used, **given)


def _label(variant: Any) -> str:
    """A variant in one line."""
    parts = variant if isinstance(variant, tuple) else (variant,)
    text = ", ".join(getattr(p, "__name__", None) or repr(p) for p in parts)
    return text if len(text) <= _MAX_LABEL else f"{text[:_MAX_LABEL]}..."
