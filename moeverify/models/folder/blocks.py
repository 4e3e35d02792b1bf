"""Weights of a checkpoint folder held block by block: one layer, or one tensor outside of layers, at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch

from moeverify.models.folder.assembly import Assembly
from moeverify.models.folder.memory import Memory
from moeverify.models.folder.turns import Turns

_LARGE = 1 << 26  # bytes of a tensor beside which no memory is kept for another one
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
        self._values: dict[str, torch.Tensor] = {}
        self._memory = Memory()

    def read(self, name: str) -> torch.Tensor:
        """The values of a tensor; a task in turns waits here until its block is the current one."""
        block = block_of(name)
        if block != self.held:
            if self.turns.inside:
                self.turns.wait_for(block)
            else:
                self.hold(block)
        if name not in self._values:
            assembly, dtype = self.tensors[name]
            self._values[name] = put_together(assembly, dtype, self._memory)
            self.on_read(assembly.nbytes)
        return self._values[name]

    def hold(self, block: str) -> None:
        """Make ``block`` the current one, and free the values of the one before."""
        if block != self.held:
            self._values.clear()
            self.held = block

    def release(self) -> None:
        """Free all values; no block is the current one then."""
        self._values.clear()
        self._memory.give_back()
        self.held = ""


def put_together(assembly: Assembly, dtype: torch.dtype, memory: Memory | None = None) -> torch.Tensor:
    """A tensor in memory of its own; a stack expert by expert in ``memory``, so that its sources are in memory once."""
    if assembly.converter is None or not assembly.is_stack:
        if memory is not None and assembly.nbytes > _LARGE:
            memory.give_back()
        whole = assembly.read()
        made = whole.to(dtype, copy=True, memory_format=torch.contiguous_format)
        assembly.reader.note_read(assembly.nbytes)
        return made
    made = (memory or Memory()).empty(assembly.shape, dtype)
    each = assembly.nbytes // assembly.shape[0]
    for part in range(assembly.shape[0]):
        made[part] = assembly.read(part)
        assembly.reader.note_read(each)
    return made
