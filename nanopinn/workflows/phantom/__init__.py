"""The digital phantom: a complete synthetic study with its truth."""

from nanopinn.workflows.phantom.study import make_phantom

__all__ = ["make_phantom"]
