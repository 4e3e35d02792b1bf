"""Parameters of which a run takes a few: the everyday suite, or the whole run, of which nightly takes the rest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest


def everyday(values: Iterable[Any], chosen: Collection[Any], name: Callable[[Any], Any] = lambda value: value) -> list:
    """Parameters for ``values``; those whose ``name`` is not among ``chosen`` are slow."""
    return _marked(values, chosen, name, pytest.mark.slow)


def not_only_by_night(
    values: Iterable[Any], chosen: Collection[Any], name: Callable[[Any], Any] = lambda value: value
) -> list:
    """Parameters for ``values``; those whose ``name`` is not among ``chosen`` are for the nightly run."""
    return _marked(values, chosen, name, pytest.mark.nightly)


def _marked(
    values: Iterable[Any], chosen: Collection[Any], name: Callable[[Any], Any], mark: pytest.MarkDecorator
) -> list:
    values = list(values)
    unknown = set(chosen) - {name(value) for value in values}
    assert not unknown, f"no parameter is named {sorted(map(str, unknown))}"
    return [pytest.param(v, marks=() if name(v) in chosen else mark) for v in values]
