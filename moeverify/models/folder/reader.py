"""Values of stored tensors, memory-mapped one by one: only the pages that are looked at are read."""

from __future__ import annotations

import mmap
import os
import warnings
import weakref

import torch

from moeverify.models.folder.headers import Stored

# Pages that were looked at are given back after so many bytes were asked for.
_HELD_BYTES = 1 << 27


class Reader:
    """Maps each tensor by itself, for as long as it is in use: address space stays small, however large the file.

    Tensors are views of their mapping and must not be written to.
    """

    def __init__(self) -> None:
        self._maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
        self._read = 0

    def tensor(self, stored: Stored) -> torch.Tensor:
        """The whole tensor, without copying."""
        if stored.nbytes == 0:
            return torch.empty(stored.shape, dtype=stored.torch_dtype)
        begin = stored.begin // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        handle = os.open(stored.file, os.O_RDONLY)
        try:
            mapping = mmap.mmap(handle, stored.end - begin, access=mmap.ACCESS_READ, offset=begin)
        finally:
            os.close(handle)
        self._maps.add(mapping)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the bytes are not writable
            values = torch.frombuffer(mapping, dtype=torch.uint8)[stored.begin - begin :]
        if values.data_ptr() % stored.torch_dtype.itemsize:  # headers of other writers may not be aligned
            values = values.clone()
        return values.view(stored.torch_dtype).view(stored.shape)

    def note_read(self, nbytes: int) -> None:
        """Count bytes that were read, and give their memory back now and then. Views stay valid."""
        self._read += nbytes
        if self._read > _HELD_BYTES:
            self._read = 0
            for mapping in list(self._maps):
                mapping.madvise(mmap.MADV_DONTNEED)
