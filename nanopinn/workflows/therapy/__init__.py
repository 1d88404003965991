"""Arms of treatment through one tumour: what is given, what is not known, what reaches cells far from vessels."""

from nanopinn.workflows.therapy.run import compare_arms

__all__ = ["compare_arms"]
