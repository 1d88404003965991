"""The digital phantom: a complete synthetic study with its truth, or a dataset of them."""

from nanopinn.workflows.phantom.dataset import make_phantom_dataset
from nanopinn.workflows.phantom.study import make_phantom

__all__ = ["make_phantom", "make_phantom_dataset"]
