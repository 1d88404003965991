"""The command line: it parses options and calls the use cases."""

from nanopinn.cli.entry import main

__all__ = ["main"]
