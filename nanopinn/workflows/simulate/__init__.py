"""Forward runs: a treatment through a tumour whose maps are given."""

from nanopinn.workflows.simulate.run import run_simulation
from nanopinn.workflows.simulate.sources import MapFiles

__all__ = ["MapFiles", "run_simulation"]
