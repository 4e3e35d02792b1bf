"""Limits of engines on a plan: warned of, or refused, before anything is pruned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moeverify.base.entries import EntryPath, with_entries
from moeverify.errors import PruningRefused
from moeverify.models.engines.entries import sizes_of
from moeverify.models.engines.limit import Limit, exceeded_by, nearest, note
from moeverify.serving.registry import Engine

Entries = Mapping[EntryPath, Any]
Judge = Callable[[Mapping[str, Any], Entries], list[str]]
# Sizes that a ratio of a role changes.
_ROLES = {"experts": "experts", "hidden": "hidden", "expert_channels": "routed_experts"}


def plan_judge(engines: Sequence[Engine]) -> Judge:
    """A function that checks the new sizes of a plan against the limits of ``engines``.

    It takes the base's configuration and the plan's new entries, and returns notes on sizes that an engine runs slower.
    It raises ``PruningRefused`` for a size that an engine refuses or computes wrongly, with the nearest ratios that it
    takes. A limit that the base exceeds as well is skipped.
    """

    def judge(before: Mapping[str, Any], entries: Entries) -> list[str]:
        notes, after = [], with_entries(before, entries)
        for engine in engines:
            usual = {id(limit) for limit in exceeded_by(engine.limits, before)}
            for limit in exceeded_by(engine.limits, after):
                if id(limit) in usual:
                    continue
                line = f"{engine.name}: {note(limit, after)}{_ratios(limit, before, after)}"
                if limit.effect != "slower":
                    raise PruningRefused(f"{line}; nothing was pruned")
                notes.append(line)
        return notes

    return judge


def _ratios(limit: Limit, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The options that give the nearest sizes."""
    role, size = _ROLES.get(limit.size), sizes_of(before, limit.engine).get(limit.size, 0)
    near = nearest(limit, after, most=size - 1)
    if role is None or not near:
        return ""
    return ": " + " or ".join(f"--ratio {role}={1 - kept / size:.4g}" for kept in near)
