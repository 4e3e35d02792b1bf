"""Engines that need no installation."""

import sys
from pathlib import Path

import pytest

from moeverify.serving import engines as _registered  # noqa: F401  before a test changes the registry
from moeverify.serving.registry import ENGINES, Engine

SUPPORT = Path(__file__).parents[2] / "support"


@pytest.fixture
def engine(monkeypatch):
    """Register an engine whose worker is a script of tests/support, for this test."""

    def registered(script, name="fake", **more):
        made = Engine(name, SUPPORT / script, python=Path(sys.executable), **more)
        monkeypatch.setitem(ENGINES, name, made)
        return made

    return registered
