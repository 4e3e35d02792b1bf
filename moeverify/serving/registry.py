"""Engines by name: what serves a checkpoint, described by the environment it needs and the script that runs in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from moeverify.models.engines.limit import Limit
from moeverify.serving.answers import Answer

# Problems in what an engine made of both folders, such as converted files: base, pruned, answers of both.
Inspect = Callable[[Path, Path, Answer, Answer], list[str]]


@dataclass(frozen=True)
class Engine:
    """One engine.

    Attributes:
        name: as users write it in ``--engines``.
        worker: script that the engine's own Python runs; it follows the protocol of ``moeverify.serving.ask``.
        pins: file of pinned requirements that ``moeverify engines install`` installs; ``None`` if nothing is installed.
        torch: release of PyTorch that it needs, empty for none; linked from here if it is the same.
        sources: parts of source archives, by requirement: files under these prefixes are unpacked.
        python: the Python that runs the worker, for an engine that is there already.
        environment: variables that its process gets.
        inspect: looks for faults in what the engine made of the folders.
        limits: sizes that it takes.

    """

    name: str
    worker: Path
    pins: Path | None = None
    torch: str = ""
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    python: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    inspect: Inspect | None = None
    limits: tuple[Limit, ...] = ()


ENGINES: dict[str, Engine] = {}


def register(engine: Engine) -> Engine:
    """Add an engine under its name. Raises ``ValueError`` for a name that is taken by another."""
    if ENGINES.get(engine.name, engine) != engine:
        raise ValueError(f"two engines are named {engine.name}")
    ENGINES[engine.name] = engine
    return engine
