"""Temporary folders that a later run recognises as left over: each holds a lock that ends with its process."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from moeverify.base.locks import is_free, only_one

_PREFIX = "moeverify-"
_LOCK = ".moeverify.lock"


@contextlib.contextmanager
def scratch_folder(purpose: str, place: str | Path | None = None) -> Iterator[Path]:
    """A private folder for the block, named after its purpose; ``place`` is where it lies, the system's by default."""
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{purpose}-", dir=place))
    try:
        with only_one(folder / _LOCK, f"{folder} is in use"):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_left_over(place: str | Path | None = None) -> list[Path]:
    """Remove the temporary folders of runs that were killed; return those that were removed.

    Exception: folders of other users, links, and what holds no lock of ours are not touched.
    """
    removed = []
    for folder in Path(place or tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            mine = not folder.is_symlink() and folder.is_dir() and folder.stat().st_uid == os.getuid()
            if mine and (folder / _LOCK).is_file() and is_free(folder / _LOCK):
                shutil.rmtree(folder)
                removed.append(folder)
    return removed
