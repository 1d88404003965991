"""Notifications of the plugin; errors are shown as messages without a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nanopinn.errors import NanopinnError, describe_error

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
    "formulation": "'Formulation'",
    "drug_dose": "'Drug dose'",
    "species": "'Species'",
    "body_weight_kg": "'Body weight'",
    "infusion_min": "'Infusion'",
    "schedule": "'Schedule'",
    "plasma": "'Plasma'",
    "dose": "'Dose'",
    "heat": "'Heating'",
    "radiation": "'Radiation'",
    "arms": "'Arms'",
}
#: Parts of messages about parameters that the panel has no field for.
_WITHOUT_LABEL = (" for `out`", ", or set `overwrite`")


def format_for_panel(error: Exception) -> str:
    """Message of an error, with the labels of the panel in place of parameters."""
    text = describe_error(error, LABELS)
    for words in _WITHOUT_LABEL:
        text = text.replace(words, "")
    return text


def notify_info(text: str) -> None:
    """Show a message."""
    from napari.utils.notifications import show_info

    show_info(text)


def notify_warning(text: str) -> None:
    """Show a warning."""
    from napari.utils.notifications import show_warning

    show_warning(text)


@contextmanager
def notify_errors(action: str) -> Iterator[None]:
    """Show any error as a warning.

    Args:
        action: What is done, such as "Saving".
    """
    try:
        yield
    except NanopinnError as error:
        notify_warning(format_for_panel(error))
    except Exception as error:  # also a bug must not reach the viewer
        notify_warning(f"{action} failed. {format_for_panel(error)}")
