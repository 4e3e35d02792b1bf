"""Values of stored tensors, memory-mapped: only the pages that are looked at are read."""

from __future__ import annotations

import mmap
import warnings
from pathlib import Path

import torch

from moeverify.certification.folders.headers import Stored

# Pages that were looked at are given back after so many bytes were asked for.
_HELD_BYTES = 1 << 27


class Reader:
    """Maps each file once. Tensors are views of the mapping and must not be written to."""

    def __init__(self) -> None:
        self._maps: dict[Path, tuple[mmap.mmap, torch.Tensor]] = {}
        self._asked = 0

    def tensor(self, stored: Stored) -> torch.Tensor:
        """The whole tensor, without copying."""
        if stored.nbytes == 0:
            return torch.empty(stored.shape, dtype=stored.torch_dtype)
        values = self._bytes(stored.file)[stored.begin : stored.end]
        if values.data_ptr() % stored.torch_dtype.itemsize:  # headers of other writers may not be aligned
            values = values.clone()
        return values.view(stored.torch_dtype).view(stored.shape)

    def looked_at(self, nbytes: int) -> None:
        """Count bytes that were read, and give their memory back now and then. Views stay valid."""
        self._asked += nbytes
        if self._asked > _HELD_BYTES:
            self._asked = 0
            for mapping, _ in self._maps.values():
                mapping.madvise(mmap.MADV_DONTNEED)

    def _bytes(self, file: Path) -> torch.Tensor:
        if file not in self._maps:
            with file.open("rb") as stream:
                mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the bytes are not writable
                self._maps[file] = (mapping, torch.frombuffer(mapping, dtype=torch.uint8))
        return self._maps[file][1]
