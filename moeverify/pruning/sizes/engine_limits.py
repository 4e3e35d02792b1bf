"""Numbers of experts and groups that serving engines have kernels for.

They are warnings, no faults: an engine takes a slower way, or refuses, and a later release may lift the limit.
``since`` is the date of the source where it is known, ``read`` the month in which it was read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from moeverify.base.kernel_limits import EXPERT_COUNTS, MOST_CHOSEN_GROUPS, MOST_GROUPS, MOST_IN_A_GROUP
from moeverify.pruning.experts.topology import Topology


@dataclass(frozen=True)
class EngineLimit:
    """One limit: what an engine asks of a router, and where that stands."""

    engine: str
    rule: str
    source: str
    since: str
    read: str
    holds: Callable[[Topology], bool]


ENGINE_LIMITS = (
    EngineLimit(
        "vllm",
        "fused kernels exist for 1 to 128, 192, 256, 320, 384, 448, 512 and 576 experts",
        "vllm-project/vllm#50982",
        "",
        "2026-11",
        lambda t: t.count in EXPERT_COUNTS,
    ),
    EngineLimit(
        "vllm",
        "experts that the groups do not divide are chosen without groups, otherwise than in transformers",
        "vllm-project/vllm#29439",
        "2025-11-25",
        "2026-11",
        lambda t: t.count % t.groups == 0,
    ),
    EngineLimit(
        "flashinfer",
        "the fused router takes at most 8 groups, of which at most 4 are chosen",
        "flashinfer-ai/flashinfer#5165",
        "2026-09-12",
        "2026-11",
        lambda t: t.groups <= MOST_GROUPS and (t.groups == 1 or t.chosen_groups <= MOST_CHOSEN_GROUPS),
    ),
    EngineLimit(
        "aiter",
        "the fused grouped router takes at most 32 experts in a group",
        "ROCm/aiter#2369",
        "",
        "2026-11",
        lambda t: t.groups == 1 or t.count <= MOST_IN_A_GROUP * t.groups,
    ),
)
_PARALLEL = EngineLimit(
    "vllm",
    "the number of experts must be a multiple of the expert-parallel size",
    "vllm-project/vllm#52435",
    "",
    "2026-11",
    lambda t: True,
)


@dataclass(frozen=True)
class Exceeded:
    """A limit that a number of experts exceeds."""

    engine: str
    rule: str
    source: str
    since: str
    read: str

    @classmethod
    def of(cls, limit: EngineLimit) -> Exceeded:
        """The limit without its test."""
        return cls(limit.engine, limit.rule, limit.source, limit.since, limit.read)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.engine}: {self.rule} ({self.source}{', ' + self.since if self.since else ''})"


def exceeded(topology: Topology, expert_parallel: int = 1) -> list[Exceeded]:
    """The limits that a router exceeds when it is served on ``expert_parallel`` devices."""
    found = [Exceeded.of(limit) for limit in ENGINE_LIMITS if not limit.holds(topology)]
    return [*found, Exceeded.of(_PARALLEL)] if topology.count % expert_parallel else found


def parallel_sizes(count: int, most: int = 64) -> list[int]:
    """Powers of two that divide a number of experts: the expert-parallel sizes that it can be served with."""
    return [size for power in range(most.bit_length()) if count % (size := 2**power) == 0 and size <= most]
