"""Memory, disk and time that pruning shard by shard needs."""

from __future__ import annotations

from dataclasses import dataclass

from moeverify.pruning.sizes.by_role import Size

# Beside the largest layer in float32: buffers of the reader and writer, the plan and the program itself.
WORKING_BYTES = int(1.5 * 2**30)
# Scores, then cuts: criteria of weights alone read every shard twice.
DATA_FREE_PASSES = 2
DEFAULT_SPEED = 0.5


@dataclass(frozen=True)
class StreamingNeeds:
    """An upper estimate: ``memory``, ``read`` and ``written`` in bytes, ``seconds`` at ``speed`` GiB a second."""

    memory: int
    read: int
    written: int
    seconds: float
    speed: float


def streaming_needs(before: Size, after: Size, layer: Size, speed: float = DEFAULT_SPEED) -> StreamingNeeds:
    """Needs of pruning from ``before`` to ``after`` by weights alone, a layer at a time.

    ``speed`` is what the disk reads or writes in GiB a second. Criteria that run calibration text through the model
    need the time of that as well.
    """
    read = DATA_FREE_PASSES * before.bytes
    seconds = (read + after.bytes) / 2**30 / speed
    return StreamingNeeds(4 * layer.parameters + WORKING_BYTES, read, after.bytes, seconds, speed)
