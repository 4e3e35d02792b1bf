"""Parameters of which the everyday suite takes a few; the whole run takes all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest


def everyday(values: Iterable[Any], chosen: Collection[Any], name: Callable[[Any], Any] = lambda value: value) -> list:
    """Parameters for ``values``; those whose ``name`` is not among ``chosen`` are slow."""
    values = list(values)
    unknown = set(chosen) - {name(value) for value in values}
    assert not unknown, f"no parameter is named {sorted(map(str, unknown))}"
    return [pytest.param(v, marks=() if name(v) in chosen else pytest.mark.slow) for v in values]
