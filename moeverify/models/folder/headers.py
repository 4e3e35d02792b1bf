"""Headers of safetensors files: names, types, shapes and byte ranges, read without the values.

A header is input from strangers: every length, offset, type and shape is checked before it is used.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moeverify.base.documents import BeyondLimits, DocumentLimits, check_limits, from_json

LENGTH_BYTES = 8
MAX_HEADER = 100_000_000  # the limit of the safetensors library
MAX_DIMENSIONS = 64
LIMITS = DocumentLimits(size=MAX_HEADER, depth=4)

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F8_E8M0": torch.float8_e8m0fnu,
}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: ``begin`` and ``end`` are byte positions in the whole file."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.end - self.begin

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type of the values."""
        return DTYPES[self.dtype]


@dataclass(frozen=True)
class Header:
    """A file's usable tensors, and one line for each problem found."""

    tensors: tuple[Stored, ...]
    problems: tuple[str, ...]


class _Broken(Exception):
    """A header that cannot be read."""


def read_header(file: Path) -> Header:
    """Read and check the header of one file. Never raises for what the file holds."""
    try:
        size, start, entries, repeated = _parse(file)
    except _Broken as error:
        return Header((), (f"{file.name}: {error}",))
    problems = [f"{file.name}: {name} is listed {times} times" for name, times in repeated.items()]
    tensors = []
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        try:
            tensors.append(_tensor(file, name, entry, start, size))
        except _Broken as error:
            problems.append(f"{file.name}: {_short(name)}: {error}")
    if len(problems) == len(repeated):
        problems += [f"{file.name}: {line}" for line in _layout_problems(tensors, start, size)]
    return Header(tuple(tensors), tuple(problems))


def _parse(file: Path) -> tuple[int, int, dict[str, Any], dict[str, int]]:
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            prefix = stream.read(LENGTH_BYTES)
            if len(prefix) < LENGTH_BYTES:
                raise _Broken(f"only {len(prefix)} bytes, no header; copy the file again")
            (length,) = struct.unpack("<Q", prefix)
            if length > min(size - LENGTH_BYTES, MAX_HEADER):
                raise _Broken(f"announces a header of {length:,} bytes in a file of {size:,}; copy the file again")
            text = stream.read(length).decode("utf-8")
    except OSError as error:
        raise _Broken(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _Broken("the header is not UTF-8") from error
    repeated: Counter[str] = Counter()

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(name for name, _ in pairs)
        repeated.update({name: times for name, times in counts.items() if times > 1})
        return dict(pairs)

    try:
        entries = from_json(text, LIMITS, unique)
        check_limits(entries, LIMITS)
    except BeyondLimits as error:
        raise _Broken(f"not a header: {error}") from error
    except RecursionError as error:
        raise _Broken(f"the header is nested deeper than {LIMITS.depth} levels") from error
    except ValueError as error:
        raise _Broken(f"the header is not JSON: {str(error)[:120]}") from error
    if not isinstance(entries, dict):
        raise _Broken("the header is no JSON object")
    return size, LENGTH_BYTES + length, entries, dict(repeated)


def _tensor(file: Path, name: str, entry: Any, start: int, size: int) -> Stored:
    if not isinstance(entry, dict):
        raise _Broken("its entry is no JSON object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _Broken(f"unknown type {_short(str(dtype))}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(_is_count(n) for n in shape):
        raise _Broken(f"no valid shape: {_short(str(shape))}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(n) for n in offsets):
        raise _Broken(f"no valid byte range: {_short(str(offsets))}")
    begin, end = start + offsets[0], start + offsets[1]
    if begin > end or end > size:
        raise _Broken(f"bytes {offsets[0]:,} to {offsets[1]:,} lie outside of the file's {size - start:,}")
    needed = math.prod(shape) * DTYPES[dtype].itemsize
    if needed != end - begin:
        raise _Broken(f"{dtype} {shape} needs {needed:,} bytes, its range has {end - begin:,}")
    return Stored(name, file, dtype, tuple(shape), begin, end)


def _layout_problems(tensors: list[Stored], start: int, size: int) -> Iterator[str]:
    """Ranges that overlap, and bytes that belong to no tensor: the safetensors library refuses both."""
    position, before = start, None
    for tensor in sorted(tensors, key=lambda t: (t.begin, t.end)):
        if tensor.begin < position and before is not None:
            yield f"{tensor.name} and {before.name} overlap by {position - tensor.begin:,} bytes"
        elif tensor.begin > position:
            yield f"{tensor.begin - position:,} bytes before {tensor.name} belong to no tensor"
        position, before = max(position, tensor.end), tensor
    if position < size:
        yield f"{size - position:,} bytes at the end belong to no tensor"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
