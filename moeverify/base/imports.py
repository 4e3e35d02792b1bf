"""Imports of what moeverify is built on, which may fail: a fork with a syntax error, a missing dependency."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from moeverify.base.foreign import foreign_code
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
    search_current_folder()
    with foreign_code(f"cannot import {name}", SourceError):
        value: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            value = getattr(value, part)
    return value


def search_current_folder() -> None:
    """Let modules of the current folder be imported, which the command ``moeverify`` alone does not."""
    with contextlib.suppress(FileNotFoundError):  # the folder was deleted
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.insert(0, here)


def importable_name(thing: Any) -> str | None:
    """``module:attribute`` under which another process finds ``thing``; ``None`` for what has no such name."""
    module, path = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    value: Any = sys.modules.get(module or "")
    if not path or module == "__main__":
        return None
    for part in path.split("."):
        value = getattr(value, part, None)
    return f"{module}:{path}" if value is thing else None


def folders_needed(names: Iterable[str]) -> str:
    """Folders, joined as in ``PYTHONPATH``, that a new process needs to import the modules of these names.

    Names without a colon need none, and neither do modules that are installed or lie in the current folder.
    """
    folders = [folder for name in names if ":" in name and (folder := _folder_of(name.partition(":")[0]))]
    result = [folder for folder in dict.fromkeys(folders) if folder != str(Path.cwd())]
    return os.pathsep.join(folder for folder in result if folder not in _usual_path()) if result else ""


def _folder_of(module: str) -> str | None:
    """The folder that the top-level package of a module is imported from; the package itself is not imported."""
    top = module.partition(".")[0]
    here = Path.cwd()
    if (here / top).is_dir() or (here / f"{top}.py").is_file():
        return str(here)
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.origin or not os.path.exists(spec.origin):
        return None
    depth = 1 if spec.submodule_search_locations else 0
    return str(Path(spec.origin).absolute().parents[depth])


@functools.lru_cache(maxsize=1)
def _usual_path() -> tuple[str, ...]:
    """The module search path of a new process."""
    program = "import json, sys; print(json.dumps(sys.path[1:]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return tuple(json.loads(done.stdout)) if done.returncode == 0 else ()
