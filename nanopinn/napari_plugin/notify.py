"""What the plugin says when something is wrong: words, never a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

#: Options of the command line, and the fields of the panel that stand for them.
FIELDS = {
    "--frame-spacing": "'Frame spacing'",
    "--flip-angle": "'Flip angle'",
    "--tr": "'TR'",
    "--dce": "'DCE series'",
    "--cest": "'pH or CEST'",
    "--assume-ph": "'Assumed pH'",
    "--mask": "'Mask'",
    "--vfa": "'Flip-angle set'",
    "--t1": "'T1'",
    "--drug": "'Drug images'",
    "--aif": "'Arterial input'",
    "--engine": "'Engine'",
    "--preset": "'Preset'",
    "--device": "'Device'",
    "--dose": "'Dose'",
    "--heat": "'Heating'",
    "--radiation": "'Radiation'",
    "--arms": "'Arms'",
    "Give another folder to --out, or --overwrite.": "Choose another folder.",
    "Give another folder to --out.": "Choose another folder.",
}


def replace_options_by_fields(text: str) -> str:
    """A message of the package with the panel's fields in place of options."""
    for option, field in sorted(FIELDS.items(), key=lambda item: -len(item[0])):
        text = text.replace(option, field)
    return text


def notify_info(text: str) -> None:
    """Say that something was done."""
    from napari.utils.notifications import show_info

    show_info(text)


def notify_warning(text: str) -> None:
    """Say what is wrong and what to do."""
    from napari.utils.notifications import show_warning

    show_warning(replace_options_by_fields(text))


@contextmanager
def notify_errors(doing: str) -> Iterator[None]:
    """Turn whatever goes wrong into one notification."""
    from nanopinn.errors import NanopinnError

    try:
        yield
    except NanopinnError as error:
        notify_warning(str(error))
    except OSError as error:
        notify_warning(f"{doing} failed: {error.strerror or error}. Nothing was changed.")
    except MemoryError:
        notify_warning(f"{doing} failed: there is not enough memory. Nothing was changed.")
    except Exception as error:  # a bug of ours is told too, and not thrown at the viewer
        notify_warning(f"{doing} failed: {type(error).__name__}: {error}. Please report it.")
