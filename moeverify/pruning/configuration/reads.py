"""Entries that a build reads from its configuration, so that changes of any other entry need no build of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast

from moeverify.pruning.configuration.replaced import replaced


@contextlib.contextmanager
def recorded_reads(config: Any) -> Iterator[set[str]]:
    """A context that collects the names of all attributes that are asked of configurations of this class.

    Copies and nested configurations count too, as far as they share the method that looks attributes up.
    """
    names: set[str] = set()
    classes = [c for c in type(config).__mro__[:-1] if "__getattribute__" in vars(c)] or [type(config)]
    with contextlib.ExitStack() as stack:
        for kind in classes:
            noting = _noting(cast(Any, kind).__getattribute__, names)
            stack.enter_context(replaced(kind, "__getattribute__", noting))
        yield names


def _noting(original: Callable[[Any, str], Any], names: set[str]) -> Callable[[Any, str], Any]:
    def look_up(self: Any, name: str) -> Any:
        names.add(name)
        return original(self, name)

    return look_up
