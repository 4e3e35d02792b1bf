"""One limit of an engine on one size, and what falls outside of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from moeverify.models.engines.entries import sizes_of

Holds = Callable[[int, Mapping[str, int]], bool]
# What an engine does with a model outside of a limit: it refuses it, computes another function, or takes a slower way.
Effect = Literal["refused", "differs", "slower"]


@dataclass(frozen=True)
class Limit:
    """One limit of an engine, or of a kernel library that engines use.

    Attributes:
        engine: the engine or library, e.g. ``vllm`` or ``flashinfer``.
        size: what is limited, a name of ``sizes_of``.
        holds: whether the value is taken, given the value and all sizes.
        rule: the limit in words.
        source: where it is documented, reported or was tried.
        read: when the source was read.
        since: when the source was written; empty if that is unknown.
        types: model types that it holds for; empty for all.
        not_for: model types that it does not hold for.
        effect: what becomes of a model outside of it.

    """

    engine: str
    size: str
    holds: Holds
    rule: str
    source: str
    read: str
    since: str = ""
    types: tuple[str, ...] = ()
    not_for: tuple[str, ...] = ()
    effect: Effect = "slower"

    @property
    def reference(self) -> str:
        """Source and date, e.g. ``vllm-project/vllm#50982, 2026-08-04``."""
        return f"{self.source}, {self.since or f'read {self.read}'}"

    def __str__(self) -> str:
        return f"{self.engine}: {self.rule} ({self.reference})"

    def to_dict(self) -> dict[str, str]:
        """As plain data."""
        names = ("engine", "rule", "source", "since", "read", "effect")
        return {name: getattr(self, name) for name in names}


def exceeded(limits: Sequence[Limit], sizes: Mapping[str, int], model_type: str = "") -> list[Limit]:
    """The limits that these sizes fall outside of; sizes that are not given exceed nothing."""
    return [
        limit
        for limit in limits
        if (not limit.types or model_type in limit.types)
        and model_type not in limit.not_for
        and limit.size in sizes
        and not limit.holds(sizes[limit.size], sizes)
    ]


def exceeded_by(limits: Sequence[Limit], config: Mapping[str, Any]) -> list[Limit]:
    """The limits that a configuration falls outside of, as the engine of each limit reads it."""
    kind = config.get("model_type", "")
    return [limit for limit in limits if exceeded((limit,), sizes_of(config, limit.engine), kind)]


def note(limit: Limit, config: Mapping[str, Any]) -> str:
    """An exceeded limit in words, with the nearest sizes that hold."""
    value = sizes_of(config, limit.engine)[limit.size]
    words = " or ".join(map(str, nearest(limit, config)))
    near = f"; nearest: {words}" if words else ""
    return f"{limit.size.replace('_', ' ')} {value}: {limit.rule} ({limit.reference}){near}"


def nearest(limit: Limit, config: Mapping[str, Any], most: int = 0) -> tuple[int, ...]:
    """The nearest smaller and larger size that holds; none above ``most`` if that is given."""
    sizes = sizes_of(config, limit.engine)
    value = sizes[limit.size]

    def holds(size: int) -> bool:
        return limit.holds(size, {**sizes, limit.size: size})

    below = next((size for size in range(value - 1, 0, -1) if holds(size)), None)
    above = next((size for size in range(value + 1, 2 * value + 577) if holds(size)), None)
    return tuple(size for size in (below, above) if size is not None and (not most or size <= most))
