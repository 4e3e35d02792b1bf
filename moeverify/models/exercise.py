"""Inputs that reach every routed expert, and who was reached."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from moeverify.models.drawn import Drawer
from moeverify.models.forward import call_model
from moeverify.models.outputs import float_outputs, tensor_outputs
from moeverify.models.roles import FoundRoles
from moeverify.models.state import same_start


@contextlib.contextmanager
def count_reached(model: nn.Module, roles: FoundRoles) -> Iterator[dict[str, int]]:
    """Count the tokens that reach each routed expert while the model runs.

    Experts in lists count the rows of their input. Fused experts count by the arguments of their module. These are an
    index with the expert of each token, or a list with the number of tokens per expert. Without such arguments every
    expert sees every token, and the router's scores count: exactly zero for those not chosen.
    """
    reached = dict.fromkeys(roles.experts, 0)
    handles = []

    def count_calls(layer, state):
        def hook(module, args, kwargs):
            counts = _tokens_of_each(args, kwargs, len(layer.experts)) or state.pop("scored", None)
            if counts is None or state.setdefault("module", module) is not module:
                return
            for name, count in zip(layer.experts, counts, strict=False):
                reached[name] += count

        return hook

    def scored(layer, state):
        def hook(module, _, output):
            for scores in tree_leaves(output):
                if isinstance(scores, torch.Tensor) and scores.dim() > 1 and scores.shape[-1] == len(layer.experts):
                    if bool((scores == 0).any()):  # logits are never exactly zero, and tell nothing
                        state["scored"] = (scores != 0).flatten(0, -2).sum(0).tolist()
                    return

        return hook

    def apart(name):
        def hook(_, args, kwargs):
            tensor = next((t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)), None)
            if tensor is not None:
                reached[name] += tensor.numel() // max(tensor.shape[-1], 1)

        return hook

    modules = dict(model.named_modules(remove_duplicate=False))
    for layer in roles.layers:
        state: dict[str, Any] = {}
        if layer.parts:  # an expert that is several modules is counted at the first; one of parameters is not counted
            first = {next(iter(paths)): name for name, paths in zip(layer.experts, layer.parts, strict=True)}
            hooks = {path: apart(name) for path, name in first.items() if path in modules}
        else:  # whichever module is told first is believed
            hooks = dict.fromkeys((layer.container, *layer.holders), count_calls(layer, state))
            for name in layer.routers:
                handles.append(model.get_submodule(name).register_forward_hook(scored(layer, state)))
        for name, hook in hooks.items():
            handles.append(model.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield reached
    finally:
        for handle in handles:
            handle.remove()


def _tokens_of_each(args: tuple, kwargs: Mapping[str, Any], experts: int) -> list[int] | None:
    """Number of tokens sent to each expert, if the arguments of a module show it."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, list) and len(value) == experts and all(isinstance(n, int) for n in value):
            return value
        if isinstance(value, torch.Tensor) and value.dtype is torch.int64:
            return torch.bincount(value.flatten(), minlength=experts).tolist()
    return None


def vary_inputs(model: nn.Module, example_inputs: Any, seed: int, dtype: torch.dtype | None = None) -> Any:
    """Other inputs that ``model`` accepts, within what the example shows; see ``models.drawn``."""
    return Drawer(model, example_inputs, dtype).draw(seed).inputs


def run_all(model: nn.Module, inputs: Any) -> dict[str, torch.Tensor]:
    """Every floating-point output by name, of one forward without gradient.

    It starts from seeded generators and leaves the model's state as it was.
    """
    with torch.no_grad(), same_start(model):
        return {name: t.clone() for name, t in float_outputs(call_model(model, inputs, use_cache=False)).items()}


def run_tensors(model: nn.Module, inputs: Any) -> dict[str, torch.Tensor]:
    """Every tensor that such a forward returns, also those of other types."""
    with torch.no_grad(), same_start(model):
        return {name: t.clone() for name, t in tensor_outputs(call_model(model, inputs, use_cache=False)).items()}
