"""Guards against a subject that reaches its judge: inputs of its own, and a fingerprint of the judged model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from moeverify.models.containers import map_leaves

_CHUNK = 1 << 22  # words at a time: 32 MiB
_PRIME = 1_000_003


def own_copy(inputs: Any) -> Any:
    """Inputs for the subject: the same values in tensors, lists and dicts of its own."""

    def copied(value: Any) -> Any:
        return value.detach().clone().requires_grad_(value.requires_grad) if isinstance(value, torch.Tensor) else value

    return map_leaves(copied, inputs)


def fingerprint(model: nn.Module) -> tuple[tuple[Any, ...], ...]:
    """Name, shape and a sum over bytes and their places for each tensor, computed where it lies.

    Equal for equal models. A change that keeps the sum takes intent.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return tuple((name, tuple(tensor.shape), _sum(tensor)) for name, tensor in tensors.items())


def _sum(tensor: torch.Tensor) -> int:
    if tensor.device.type == "meta" or tensor.layout is not torch.strided:
        return 0
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    whole = data.numel() // 8 * 8
    total = 0
    for words in (*data[:whole].view(torch.int64).split(_CHUNK), data[whole:].to(torch.int64)):
        places = 2 * torch.arange(words.numel(), device=words.device) + 1  # odd: no bit of a word is lost
        total = (total * _PRIME + int((words * places).sum())) % (1 << 64)
    return total
