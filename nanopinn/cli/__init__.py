"""The command line: thin, it only calls the workflows."""

from nanopinn.cli.entry import main

__all__ = ["main"]
