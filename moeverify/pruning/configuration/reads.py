"""Entries that a build reads from its configuration, so that changes of any other entry need no build of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast


@contextlib.contextmanager
def recorded_reads(config: Any) -> Iterator[set[str]]:
    """A context that collects the names of all attributes that are asked of configurations of this class.

    Copies and nested configurations count too, as far as they share the method that looks attributes up.
    """
    names: set[str] = set()
    classes = [c for c in type(config).__mro__[:-1] if "__getattribute__" in vars(c)] or [type(config)]
    with contextlib.ExitStack() as stack:
        for kind in classes:
            stack.enter_context(_recording(kind, names))
        yield names


@contextlib.contextmanager
def _recording(kind: type, names: set[str]) -> Iterator[None]:
    own, original = "__getattribute__" in vars(kind), cast(Any, kind).__getattribute__
    kind.__getattribute__ = _noting(original, names)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        if own:
            kind.__getattribute__ = original  # type: ignore[method-assign]
        else:
            del kind.__getattribute__  # type: ignore[misc]


def _noting(original: Callable[[Any, str], Any], names: set[str]) -> Callable[[Any, str], Any]:
    def look_up(self: Any, name: str) -> Any:
        names.add(name)
        return original(self, name)

    return look_up
