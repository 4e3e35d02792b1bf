"""Python's collector of garbage, held back where many objects are made and none of them is garbage."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Hold back Python's collector, as for a trace, which makes many small objects."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Hold back the collector, and let it pass over all objects that are there at the end, such as imported modules."""
    with without_collector():
        yield
    gc.freeze()
