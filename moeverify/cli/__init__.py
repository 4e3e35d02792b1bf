"""The command line: one file a command, no logic. Importing the package registers every command.

A command's module imports nothing heavy; what it needs is imported when it runs.
"""

import pkgutil
from importlib import import_module

from moeverify.cli.app import app, main

# What commands print with; imported by the command that runs.
_VIEWS = {"evaluation_table", "inspect_view", "plan_size_view", "progress", "stages", "summary"}

for _module in pkgutil.iter_modules(__path__):
    if _module.name not in _VIEWS:
        import_module(f"{__name__}.{_module.name}")

__all__ = ["app", "main"]
