"""Methods of a class that are others for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def replaced(kind: type, name: str, method: Any) -> Iterator[None]:
    """A context in which ``kind`` has this method; afterwards it has its own again, or the inherited one."""
    own, before = name in vars(kind), vars(kind).get(name)
    setattr(kind, name, method)
    try:
        yield
    finally:
        if own:
            setattr(kind, name, before)
        else:
            delattr(kind, name)
