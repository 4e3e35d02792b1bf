"""The command line: one file a command, no logic. Importing the package registers every command."""

import pkgutil
from importlib import import_module

from moeverify.cli.app import app, main

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["app", "main"]
