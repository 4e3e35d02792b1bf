"""Placement of a model: on one device, or on several by accelerate."""

from __future__ import annotations

import gc
from typing import Any

import torch
from torch import nn

from moeverify.errors import SourceError, UsageError
from moeverify.models.containers import map_leaves


def check_device(name: str) -> str:
    """``cpu``, ``cuda``, ``cuda:N``, or ``auto`` for as many devices as it takes.

    Raises ``UsageError`` with one line for a device that is not there.
    """
    if name == "auto":
        return name
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}; use cpu, cuda, cuda:N or auto") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError("no CUDA device is available here; use the device cpu")
        if (device.index or 0) >= torch.cuda.device_count():
            raise UsageError(f"there is no {name}; this machine has {torch.cuda.device_count()} CUDA device(s)")
    elif device.type != "cpu":
        raise UsageError(f"device {name!r} is not supported; use cpu, cuda, cuda:N or auto")
    return name


def release_cached_memory() -> None:
    """Give memory that this process caches on CUDA devices, but does not use, back to others."""
    if torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def require_weights(model: nn.Module) -> None:
    """Raise ``SourceError`` for a model with tensors on the meta device, of which there are no values to compare.

    Exception: weights that accelerate keeps elsewhere are fetched when they are needed.
    """
    if any(hasattr(module, "_hf_hook") for module in model.modules()):
        return
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise SourceError(
                f"{name} lies on the meta device and has no values, so nothing can be verified; make the model on the "
                "CPU, or look at its structure alone with moeverify inspect"
            )


def input_device(model: nn.Module) -> torch.device:
    """Device of the model's inputs: that of the embedding, or of the first parameter."""
    embedding = next((m for m in model.modules() if isinstance(m, nn.Embedding)), None)
    hook = getattr(embedding, "_hf_hook", None)
    if (device := getattr(hook, "execution_device", None)) is not None:
        return torch.device(device)
    parameter = next((embedding or model).parameters(), None)
    return torch.device("cpu") if parameter is None or parameter.is_meta else parameter.device


def move_inputs(inputs: Any, device: torch.device) -> Any:
    """Every tensor of ``inputs`` on ``device``."""
    return map_leaves(lambda x: x.to(device) if isinstance(x, torch.Tensor) and not x.is_meta else x, inputs)
