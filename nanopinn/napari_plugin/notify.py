"""What the plugin says when something is wrong: words, never a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nanopinn.errors import NanopinnError, format_error

#: Label in the panel of each parameter of the Python API that has one.
LABELS = {
    "frame_spacing": "'Frame spacing'",
    "overrides.RepetitionTime": "'Frame spacing'",
    "flip_angle": "'Flip angle'",
    "overrides.FlipAngle": "'Flip angle'",
    "tr": "'TR'",
    "overrides.RepetitionTimeExcitation": "'TR'",
    "dce": "'DCE series'",
    "cest": "'pH or CEST'",
    "assume_ph": "'Assumed pH'",
    "mask": "'Mask'",
    "vfa": "'Flip-angle set'",
    "t1": "'T1'",
    "drug": "'Drug images'",
    "aif": "'Arterial input'",
    "engine": "'Engine'",
    "preset": "'Preset'",
    "device": "'Device'",
    "dose": "'Dose'",
    "heat": "'Heating'",
    "radiation": "'Radiation'",
    "arms": "'Arms'",
}
#: What the command line can choose and the panel cannot: `out` is chosen in a dialog.
_WITHOUT_LABEL = (" for `out`", ", or set `overwrite`")


def format_for_panel(error: NanopinnError) -> str:
    """The message of an error with the labels of the panel in place of parameters."""
    text = format_error(error, LABELS)
    for words in _WITHOUT_LABEL:
        text = text.replace(words, "")
    return text


def notify_info(text: str) -> None:
    """Say that something was done."""
    from napari.utils.notifications import show_info

    show_info(text)


def notify_warning(text: str) -> None:
    """Say what is wrong and what to do."""
    from napari.utils.notifications import show_warning

    show_warning(text)


@contextmanager
def notify_errors(doing: str) -> Iterator[None]:
    """Turn whatever goes wrong into one notification."""
    try:
        yield
    except NanopinnError as error:
        notify_warning(format_for_panel(error))
    except OSError as error:
        notify_warning(f"{doing} failed: {error.strerror or error}. Nothing was changed.")
    except MemoryError:
        notify_warning(f"{doing} failed: there is not enough memory. Nothing was changed.")
    except Exception as error:  # a bug of ours is told too, and not thrown at the viewer
        notify_warning(f"{doing} failed: {type(error).__name__}: {error}. Please report it.")
