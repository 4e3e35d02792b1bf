"""The command line: one file a command, no logic. Importing the package registers every command."""

from moeverify.cli import apply_plan, inspect, prune, verify, zoo  # noqa: F401
from moeverify.cli.app import app, main

__all__ = ["app", "main"]
