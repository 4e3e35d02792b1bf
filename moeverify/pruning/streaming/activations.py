"""Activations between layers: what a layer gets waits on the disk until the layer is in memory.

A forward that reaches a layer which is not held waits for its turn there. The hidden states that the layer is called
with are written to a temporary folder meanwhile, and their memory is given back. They stay the same tensor: other
holders see its values again when the forward goes on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from moeverify.base.scratch import scratch_folder
from moeverify.models.folder.blocks import Blocks

_WORTH = 1 << 16  # bytes; smaller tensors stay in memory


class Spill:
    """The folder for activations. ``nbytes`` counts what was written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self.nbytes = 0

    def write(self, storage: torch.UntypedStorage) -> Path:
        """Write a tensor's memory to a file of its own, and give the memory back."""
        self._number += 1
        self.nbytes += storage.nbytes()
        file = self._folder / str(self._number)
        _bytes_of(storage).clone().numpy().tofile(file)  # memory that NumPy has seen cannot be given back
        storage.resize_(0)
        return file


@contextlib.contextmanager
def spilling(model: nn.Module, blocks: Blocks, place: Path | None = None) -> Iterator[Spill]:
    """Let layers of ``model`` that are not held be waited for with their inputs in files below ``place``."""
    owned = {t.untyped_storage()._cdata for t in model.buffers() if type(t) is torch.Tensor}
    handles = []
    with scratch_folder("activations", place) as folder:
        spill = Spill(folder)
        try:
            for path, layer in model.named_modules():
                if path in blocks.order:
                    hook = _waits(path, blocks, spill, owned)
                    handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
            yield spill
        finally:
            for handle in handles:
                handle.remove()


def _waits(block: str, blocks: Blocks, spill: Spill, owned: set[int]) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple, kwargs: dict) -> None:
        if not blocks.turns.inside or blocks.held == block:
            return
        hidden = _hidden((args, kwargs), owned)
        file = None if hidden is None else spill.write(hidden)
        blocks.turns.wait_for(block)
        if hidden is not None and file is not None:
            _read_back(hidden, file)

    return hook


def _hidden(values: Any, owned: set[int]) -> torch.UntypedStorage | None:
    """The memory of the hidden states, which are the first argument of a layer; ``None`` if it is not worth it."""
    first = next((t for t in tree_leaves(values) if isinstance(t, torch.Tensor) and t.is_floating_point()), None)
    if type(first) is not torch.Tensor or first.device.type != "cpu":
        return None
    storage = first.untyped_storage()
    if storage._cdata in owned or storage.nbytes() < _WORTH or not storage.resizable():
        return None
    return storage


def _bytes_of(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)  # type: ignore[call-overload]


def _read_back(storage: torch.UntypedStorage, file: Path) -> None:
    values = torch.from_file(str(file), size=file.stat().st_size, dtype=torch.uint8)
    storage.resize_(len(values))
    _bytes_of(storage).copy_(values)
    file.unlink()
