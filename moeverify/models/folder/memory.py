"""Memory of large tensors that is used again: a fresh page costs as much as reading the values that go into it."""

from __future__ import annotations

import math
import mmap
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(eq=False)
class _Buffer:
    """Anonymous memory. ``on_top`` is the array that a tensor lies on; it ends with the last view of the tensor."""

    memory: mmap.mmap
    on_top: weakref.ref[np.ndarray] | None = None

    @property
    def in_use(self) -> bool:
        return self.on_top is not None and self.on_top() is not None

    def tensor(self) -> torch.Tensor:
        """All bytes as a tensor, which keeps the array on top alive."""
        array = np.frombuffer(self.memory, np.uint8)
        self.on_top = weakref.ref(array)
        return torch.from_numpy(array)


class Memory:
    """Gives tensors without values. What no tensor lies on any more is given again to one of the same size."""

    def __init__(self) -> None:
        self._buffers: list[_Buffer] = []

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A tensor whose values are arbitrary. Memory of other sizes that is not in use is given back first."""
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes == 0:
            return torch.empty(tuple(shape), dtype=dtype)
        buffer = next((b for b in self._buffers if len(b.memory) == nbytes and not b.in_use), None)
        if buffer is None:
            self.give_back()
            # private: pages of shared memory cost half as much again
            buffer = _Buffer(mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
            self._buffers.append(buffer)
        return buffer.tensor().view(dtype).view(tuple(shape))

    def give_back(self) -> None:
        """Give back what no tensor lies on."""
        self._buffers = [buffer for buffer in self._buffers if buffer.in_use]
