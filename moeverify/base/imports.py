"""What moeverify is built on may not be importable: a fork with a syntax error, a dependency that is not installed."""

from __future__ import annotations

import contextlib
import importlib
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moeverify.errors import DependencyError, SourceError


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Turn whatever an import raises into one line that names the file at fault.

    Raises ``DependencyError``.
    """
    try:
        yield
    except Exception as error:
        frames = [f.filename for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<")]
        place = error.filename if isinstance(error, SyntaxError) else frames[-1]
        line = " ".join(f"{type(error).__name__}: {error}".split())
        raise DependencyError(
            f"cannot start, {place} cannot be imported: {line}; mend or reinstall that package"
        ) from error


def find_attribute(name: str) -> Any:
    """The object that ``module:attribute`` names, looked for in the current folder as well.

    Raises ``SourceError`` with one line if it cannot be imported.
    """
    module_name, _, attribute = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise SourceError(f"cannot import {name}: {type(error).__name__}: {error}") from error
    return found
