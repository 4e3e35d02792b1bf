"""Weights of a checkpoint folder held block by block: one layer, or one tensor outside of layers, at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch

from moeverify.models.folder.assembly import Assembly
from moeverify.models.folder.memory import Memory
from moeverify.models.folder.turns import Turns

_LARGE = 1 << 26  # bytes of a tensor beside which no memory is kept for another one
Rows = tuple[int, int]  # a first position, and one after the last
_LAYER = re.compile(r"^(.*?\.\d+)\.")


def block_of(name: str) -> str:
    """The layer that a tensor lies in, or the tensor itself outside of layers.

    >>> block_of("model.layers.3.mlp.experts.down_proj"), block_of("lm_head.weight")
    ('model.layers.3', 'lm_head.weight')
    """
    match = _LAYER.match(name)
    return match.group(1) if match else name


class Blocks:
    """Reads tensors, and keeps those of one block until another block is needed.

    ``tensors`` gives for each name how it is put together and its type; ``on_read`` is called with the bytes read.
    """

    def __init__(self, tensors: Mapping[str, tuple[Assembly, torch.dtype]]) -> None:
        self.tensors = tensors
        self.order = {block: n for n, block in enumerate(dict.fromkeys(map(block_of, tensors)))}
        self.turns = Turns(self.hold, self.order)
        self.on_read: Callable[[int], None] = lambda nbytes: None
        self.held = ""
        # Tensors that a single task reads, once: they are read in parts, and no part is kept.
        self.passing: frozenset[str] = frozenset()
        self._values: dict[str, torch.Tensor] = {}
        self._memory = Memory()
        self._passed: set[tuple[str, int]] = set()
        self._last: tuple[tuple[str, Rows | None], torch.Tensor] | None = None

    def read(self, name: str, rows: Rows | None = None) -> torch.Tensor:
        """The values of a tensor; with ``rows`` those from a first to before a last position of dimension 0.

        A task in turns waits here until the tensor's block is the current one.
        """
        block = block_of(name)
        if block != self.held:
            if self.turns.inside:
                self.turns.wait_for(block)
            else:
                self.hold(block)
        if name not in self._values and name in self.passing:
            part = self._in_passing(name, rows)
            if part is not None:
                return part
        if name not in self._values:
            assembly, dtype = self.tensors[name]
            self._values[name] = put_together(assembly, dtype, self._memory)
            self.on_read(assembly.nbytes)
        values = self._values[name]
        return values if rows is None else values[slice(*rows)]

    def _in_passing(self, name: str, rows: Rows | None) -> torch.Tensor | None:
        """Values that are kept until others are asked for; ``None`` for a tensor that has to be kept.

        That is a stack that is wanted as a whole, or one of which a part is wanted again.
        """
        assembly, dtype = self.tensors[name]
        parts = assembly.is_stack
        key = (name, rows if parts else None)
        if self._last is None or self._last[0] != key:
            self._last = None
            wanted = {(name, part) for part in range(*rows)} if rows is not None and parts else {(name, -1)}
            if wanted & self._passed or (parts and rows is None):
                return None
            self._passed |= wanted
            self._last = key, put_together(assembly, dtype, self._memory, rows if parts else None)
            self.on_read(assembly.nbytes * len(wanted) // (assembly.shape[0] if parts else 1))
        values = self._last[1]
        return values if rows is None or parts else values[slice(*rows)]

    def hold(self, block: str) -> None:
        """Make ``block`` the current one, and free the values of the one before."""
        if block != self.held:
            self._forget()
            self.held = block

    def release(self) -> None:
        """Free all values; no block is the current one then."""
        self._forget()
        self._memory.give_back()
        self.held = ""

    def _forget(self) -> None:
        self._values.clear()
        self._passed.clear()
        self._last = None


def put_together(
    assembly: Assembly, dtype: torch.dtype, memory: Memory | None = None, rows: Rows | None = None
) -> torch.Tensor:
    """A tensor in memory of its own; a stack expert by expert in ``memory``, so that its sources are in memory once.

    ``rows``: the experts of a stack that are wanted.
    """
    if rows is None and (assembly.converter is None or not assembly.is_stack):
        if memory is not None and assembly.nbytes > _LARGE:
            memory.give_back()
        whole = assembly.read()
        made = whole.to(dtype, copy=True, memory_format=torch.contiguous_format)
        assembly.reader.note_read(assembly.nbytes)
        return made
    first, last = rows or (0, assembly.shape[0])
    made = (memory or Memory()).empty((last - first, *assembly.shape[1:]), dtype)
    each = assembly.nbytes // assembly.shape[0]
    for part in range(first, last):
        assembly.read_into(made[part - first], part)
        assembly.reader.note_read(each)
    return made
