"""``python -m nanopinn``."""

from nanopinn.cli import main

main()
