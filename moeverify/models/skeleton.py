"""A model built from a configuration on the meta device: shapes and attributes, no memory."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

try:
    from transformers.initialization import no_init_weights as _no_initial_values
except ImportError:  # only a saving of time; on the meta device there is nothing to fill
    from contextlib import nullcontext as _no_initial_values  # type: ignore[assignment]

Shapes = dict[str, tuple[int, ...]]


def has_config(model: nn.Module) -> bool:
    """Whether the model is rebuilt from a configuration, as transformers' models are."""
    return hasattr(model, "config") and hasattr(model.config, "to_dict") and hasattr(model, "save_pretrained")


def skeleton(model: nn.Module, config: Any) -> nn.Module:
    """The model's class built from ``config`` on the meta device."""
    with torch.device("meta"), _no_initial_values():
        built = type(model)(copy.deepcopy(config))
    if hasattr(built, "tie_weights"):
        built.tie_weights()  # left out together with the initial values
    return built


def shapes_of(model: nn.Module) -> Shapes:
    """Shapes of all parameters and buffers by name."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: tuple(tensor.shape) for name, tensor in tensors}
