"""What moeverify is built on may not be importable: a fork with a syntax error, a dependency that is not installed."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator

from moeverify.errors import DependencyError


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
