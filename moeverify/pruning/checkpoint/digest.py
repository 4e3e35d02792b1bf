"""What a checkpoint holds, as one short word: the same however its weights are spread over files."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

_CHUNK = 1 << 26  # bytes hashed at a time


def digest_of(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and values of all parameters and saved buffers, as ``sha256:...``."""
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict(keep_vars=False).items()):
        if not isinstance(tensor, torch.Tensor):
            continue
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode("utf-8", "surrogatepass"))
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        for start in range(0, len(flat), _CHUNK):
            total.update(flat[start : start + _CHUNK].numpy().data)
    return f"sha256:{total.hexdigest()}"
