"""Files in the safetensors format that are written tensor by tensor, in any order, byte for byte as the library does.

The header needs names, types and shapes only, so a file has its full size from the beginning.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from moeverify.models.folder.headers import DTYPES, LENGTH_BYTES

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# The library sorts tensors by type, in this order, and then by name.
_ORDER = ("U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16")
_ORDER += ("F8_E8M0", "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL")
_ALIGNMENT = 8


@dataclass(frozen=True)
class Slot:
    """Destination of a tensor: ``begin`` is its first byte in the whole file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


class ShardWriter:
    """One file. ``create`` writes the header, ``write`` the values of one tensor."""

    def __init__(self, path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
        """``tensors`` give types and shapes; they may lie on the meta device."""
        self.path = path
        names = sorted(tensors, key=lambda name: (_ORDER.index(_NAMES[tensors[name].dtype]), name))
        position = 0
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        places: dict[str, tuple[int, torch.Tensor]] = {}
        for name in names:
            size = tensors[name].numel() * tensors[name].dtype.itemsize
            entries[name] = {
                "dtype": _NAMES[tensors[name].dtype],
                "shape": list(tensors[name].shape),
                "data_offsets": [position, position + size],
            }
            places[name] = (position, tensors[name])
            position += size
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        self.header = len(text).to_bytes(LENGTH_BYTES, "little") + text
        self.size = len(self.header) + position
        self.slots = {
            name: Slot(tensor.dtype, tuple(tensor.shape), len(self.header) + begin)
            for name, (begin, tensor) in places.items()
        }

    def create(self) -> None:
        """Write the header and give the file its full size; values that are there already stay."""
        with self.path.open("r+b" if self.path.exists() else "wb") as stream:
            stream.write(self.header)
            stream.truncate(self.size)

    def write(self, name: str, values: torch.Tensor, row: int | None = None) -> None:
        """Write one tensor, or its ``row`` along dimension 0.

        Raises ``ValueError`` unless it has the type and shape that was announced.
        """
        slot = self.slots[name]
        shape, begin = slot.shape, slot.begin
        if row is not None:
            if not 0 <= row < shape[0]:
                raise ValueError(f"{name} has no row {row}, announced was {slot.dtype} {list(slot.shape)}")
            shape, begin = shape[1:], begin + row * (slot.nbytes // shape[0])
        if values.dtype != slot.dtype or tuple(values.shape) != shape:
            raise ValueError(f"{name} is {values.dtype} {list(values.shape)}, announced was {slot.dtype} {list(shape)}")
        data = values.contiguous().reshape(-1).view(torch.uint8).numpy().data
        with self.path.open("r+b", buffering=0) as stream:
            position = begin
            while data:
                done = os.pwrite(stream.fileno(), data[: 1 << 28], position)
                data, position = data[done:], position + done

    def flush(self) -> None:
        """Wait until the disk has what was written."""
        with self.path.open("r+b", buffering=0) as stream:
            os.fdatasync(stream.fileno())
