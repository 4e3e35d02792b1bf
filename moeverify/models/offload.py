"""Models that accelerate has spread over devices: what it keeps outside of the model is fetched before pruning.

A model on several GPUs is pruned where it lies. Weights that were offloaded to main memory or to disk are not in the
model between forwards. The hooks of accelerate load them for each layer's call. Such a model is brought into main
memory as a whole, so that there is something to slice, and may be dispatched again afterwards.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from moeverify.models.device import input_device, move_inputs


def _align_hooks(hook: Any) -> Iterator[Any]:
    for one in getattr(hook, "hooks", None) or [hook]:
        if getattr(one, "offload", False) and getattr(one, "weights_map", None) is not None:
            yield one


def offloaded(model: nn.Module) -> bool:
    """Whether accelerate keeps some weights of ``model`` outside of it."""
    return any(True for m in model.modules() for _ in _align_hooks(getattr(m, "_hf_hook", None)))


def fetch_offloaded(model: nn.Module, example_inputs: Any) -> Any:
    """``gather_offloaded``, with a warning if that fetched anything; returns the inputs where the model is now."""
    fetched = gather_offloaded(model)
    if not fetched:
        return example_inputs
    warnings.warn(f"{fetched / 2**30:.1f} GiB of offloaded weights were brought into main memory", stacklevel=3)
    return move_inputs(example_inputs, input_device(model))


@torch.no_grad()
def gather_offloaded(model: nn.Module) -> int:
    """Bring an offloaded model into main memory and take accelerate's hooks off; others are left alone.

    Returns the number of bytes that were fetched. Tied weights stay tied. Needs main memory for the whole model.
    """
    if not offloaded(model):
        return 0
    from accelerate.hooks import remove_hook_from_module
    from accelerate.utils import set_module_tensor_to_device

    kept: list[tuple[nn.Module, str, Mapping[str, torch.Tensor]]] = [
        (module, name, hook.weights_map)
        for module in model.modules()
        for hook in _align_hooks(getattr(module, "_hf_hook", None))
        for name in hook.original_devices
    ]
    remove_hook_from_module(model, recurse=True)
    fetched = 0
    for module, name, weights in kept:
        owner = module.get_submodule(name.rpartition(".")[0])
        tensor = getattr(owner, name.rpartition(".")[2])
        if tensor.is_meta:
            set_module_tensor_to_device(module, name, "cpu", value=weights[name])
        fetched += tensor.numel() * tensor.element_size()
    model.to("cpu")
    if callable(tie := getattr(model, "tie_weights", None)):
        tie()
    if hasattr(model, "hf_device_map"):
        del model.hf_device_map  # save_pretrained would look for hooks
    return fetched
