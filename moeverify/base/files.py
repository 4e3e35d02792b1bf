"""Files that are never left half written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from moeverify.errors import ReportError


def write_text(path: Path, text: str) -> Path:
    """Write ``text`` beside ``path`` and rename it into place. Raises ``ReportError`` if the folder is not writable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise ReportError(f"cannot write {path}: {error.strerror}; choose a place that is writable") from error
    return path
