"""The command line: thin, it only calls the workflows."""

from nanopinn.cli.app import app, main

__all__ = ["app", "main"]
