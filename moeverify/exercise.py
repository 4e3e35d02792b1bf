"""Inputs that reach every routed expert, and who was reached."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from moeverify.coupling.trace import call_model
from moeverify.roles import FoundRoles


@contextlib.contextmanager
def count_reached(model: nn.Module, roles: FoundRoles) -> Iterator[dict[str, int]]:
    """Count the tokens that reach each routed expert while the model runs.

    Listed experts count the rows of their input; fused ones the entries of the index that their module receives.
    """
    reached = dict.fromkeys(roles.experts, 0)
    handles = []

    def fused(layer):
        def hook(_, args, kwargs):
            index = next(
                (t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and t.dtype is torch.int64), None
            )
            if index is not None:
                counts = torch.bincount(index.flatten(), minlength=len(layer.experts)).tolist()
                for name, count in zip(layer.experts, counts, strict=False):
                    reached[name] += count

        return hook

    def listed(name):
        def hook(_, args, kwargs):
            tensor = next((t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)), None)
            if tensor is not None:
                reached[name] += tensor.numel() // max(tensor.shape[-1], 1)

        return hook

    for layer in roles.layers:
        if layer.fused:
            module = model.get_submodule(layer.container)
            handles.append(module.register_forward_pre_hook(fused(layer), with_kwargs=True))
        else:
            for name in layer.experts:
                handles.append(model.get_submodule(name).register_forward_pre_hook(listed(name), with_kwargs=True))
    try:
        yield reached
    finally:
        for handle in handles:
            handle.remove()


def vary_inputs(model: nn.Module, example_inputs: Any, seed: int, dtype: torch.dtype | None = None) -> Any:
    """Other inputs of the same form: token numbers drawn anew, floats drawn from a normal distribution."""
    generator = torch.Generator().manual_seed(seed)
    embedding = next((m for m in model.modules() if isinstance(m, nn.Embedding)), None)
    vocabulary = embedding.num_embeddings if embedding is not None else 2

    def draw(value):
        if not isinstance(value, torch.Tensor):
            return value
        if value.is_floating_point():
            return torch.randn(value.shape, generator=generator).to(value.device, dtype or value.dtype)
        if isinstance(example_inputs, Mapping) and value is not example_inputs.get("input_ids"):
            return value
        return torch.randint(0, vocabulary, value.shape, generator=generator).to(value.device)

    return tree_map(draw, example_inputs)


def output_tensor(output: Any) -> torch.Tensor:
    """The tensor to compare: ``logits`` if there are any, else the first floating-point tensor."""
    logits = getattr(output, "logits", None)
    if isinstance(logits, torch.Tensor):
        return logits
    return next(t for t in tree_leaves(output) if isinstance(t, torch.Tensor) and t.is_floating_point())


def run(model: nn.Module, inputs: Any) -> torch.Tensor:
    """One forward without gradient; see ``output_tensor``."""
    with torch.no_grad():
        return output_tensor(call_model(model, inputs, use_cache=False))
