"""Where weights lie: two models that hold the same numbers compute the same bits only if memory is laid out alike."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

# Bytes; where torch places what it allocates on a CPU.
ALIGNMENT = 64


@contextlib.contextmanager
def laid_out_afresh(model: nn.Module) -> Iterator[None]:
    """On a CPU, hold weights that are views (of a larger tensor or of a file, or with other strides) in memory of
    their own; afterwards they lie where they did.

    Kernels add in an order that depends on strides and on alignment.
    """
    elsewhere: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.device.type == "cpu" and (not tensor.is_contiguous() or tensor.data_ptr() % ALIGNMENT):
                elsewhere.append((tensor, tensor.data))
                tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
        yield
    finally:
        for tensor, data in elsewhere:
            tensor.data = data
