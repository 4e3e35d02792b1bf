"""Memory layout of weights: models with equal numbers compute equal bits only if memory is laid out alike."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

# Bytes; where torch places what it allocates on a CPU.
ALIGNMENT = 64


@contextlib.contextmanager
def laid_out_afresh(model: nn.Module) -> Iterator[None]:
    """A context in which weights on a CPU have memory of their own. Views (of a larger tensor or of a file, or with
    other strides) are copied, and lie where they did afterwards.

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
