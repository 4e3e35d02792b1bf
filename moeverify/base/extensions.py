"""Checks, rules, faults and more that other packages add: modules that register themselves when imported.

A package announces its module under an entry point group, one for each kind::

    [project.entry-points."moeverify.checks"]
    finite = "my_package.finite_check"

``--load my_module`` does the same without an installation. The names travel in the environment, so that the fork
server, its children and the workers of pytest-xdist import them as well.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from importlib import metadata

from moeverify.base.foreign import by_user, left_by
from moeverify.base.imports import search_current_folder
from moeverify.base.words import words
from moeverify.errors import ExtensionError

VARIABLE = "MOEVERIFY_LOAD"


def load_extensions(kind: str) -> tuple[str, ...]:
    """Import the modules that installed packages announce as ``moeverify.KIND``; return their names.

    Raises:
        ExtensionError: a module cannot be imported, or registers a name that is taken.

    """
    entries = metadata.entry_points(group=f"moeverify.{kind}")
    names = tuple(sorted({entry.module for entry in entries}))
    for name in names:
        _import(name, f"announced by an installed package as moeverify.{kind}")
    return names


def load_modules(names: Iterable[str] = ()) -> tuple[str, ...]:
    """Import modules named by the user, here and in every process that is started from here; return all names so far.

    Without ``names``: those that a parent process was given.

    Raises:
        ExtensionError: a module cannot be imported, or registers a name that is taken.

    """
    wanted = tuple(dict.fromkeys((*words(os.environ.get(VARIABLE, "")), *names)))
    if wanted:
        search_current_folder()
    for name in wanted:
        _import(name, "named by --load")
    if wanted:
        os.environ[VARIABLE] = ",".join(wanted)
    return wanted


def _import(name: str, origin: str) -> None:
    try:
        importlib.import_module(name)
    except BaseException as error:
        if by_user(error):
            raise
        raise ExtensionError(
            f"cannot load {name} ({origin}): {left_by(error)}; mend, uninstall or leave out that module"
        ) from error
