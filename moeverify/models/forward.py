"""Calls of a model for tracing, observing or trying it: the user's example inputs, and the user's way to call it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook


@dataclass(frozen=True, eq=False)
class Example:
    """Example inputs (a mapping of keywords, a sequence or one tensor), and how to call a model with them.

    ``forward_fn(model, inputs)`` replaces the usual call. ``output_transform`` picks the part of the output that counts
    as the model's output. Calling an example returns the output without the transform.
    """

    inputs: Any
    forward_fn: Callable[[nn.Module, Any], Any] | None = None
    output_transform: Callable[[Any], Any] | None = None

    def __call__(self, model: nn.Module, inputs: Any = None) -> Any:
        """The output of ``model`` on the example inputs, or on others of their form."""
        given = self.inputs if inputs is None else inputs
        if self.forward_fn is not None:
            return self.forward_fn(model, given)
        return call_model(model, given, use_cache=False)

    def transformed(self, output: Any) -> Any:
        """The part of a model's output that counts as its output."""
        return output if self.output_transform is None else self.output_transform(output)


def call_model(model: nn.Module, example_inputs: Any, **extra: Any) -> Any:
    """Call ``model`` with a mapping as keywords, a sequence as positions, or one tensor.

    A sequence that ``forward`` has no positions for is its one argument. ``extra`` keywords are passed only if
    ``forward`` names them.
    """
    signature = inspect.signature(model.forward)
    extra = {k: v for k, v in extra.items() if k in signature.parameters}
    if isinstance(example_inputs, Mapping):
        return model(**{**example_inputs, **extra})
    if isinstance(example_inputs, Sequence) and not isinstance(example_inputs, str):
        return model(*example_inputs if _fits(signature, example_inputs, extra) else [example_inputs], **extra)
    return model(example_inputs, **extra)


def _fits(signature: inspect.Signature, positions: Sequence[Any], keywords: Mapping[str, Any]) -> bool:
    try:
        signature.bind(*positions, **keywords)
    except TypeError:
        return False
    return True


@contextlib.contextmanager
def eager_attention(model: nn.Module) -> Iterator[None]:
    """Let transformers models compute attention by plain operations, and put back what they used."""
    with contextlib.ExitStack() as stack:
        for inner in outermost_with(model, "set_attn_implementation"):
            previous = getattr(getattr(inner, "config", None), "_attn_implementation", None)
            if previous not in (None, "eager"):
                inner.set_attn_implementation("eager")
                stack.callback(inner.set_attn_implementation, previous)
        yield


@contextlib.contextmanager
def plain_operations(model: nn.Module) -> Iterator[None]:
    """Run compiled modules, torch's own attention and recurrent layers as operations that are seen one by one."""
    with contextlib.ExitStack() as stack:
        modules = list(model.modules())
        if any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in modules):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if any(isinstance(m, nn.RNNBase) for m in modules):
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        yield


def outermost_with(model: nn.Module, method: str) -> Iterator[Any]:
    """The modules with a method that lie in no other one that has it: transformers models in a user's module."""
    if hasattr(model, method):
        yield model
    else:
        for child in model.children():
            yield from outermost_with(child, method)


@contextlib.contextmanager
def static_experts(model: nn.Module, implementation: str | None = None) -> Iterator[None]:
    """Let fused experts of transformers models run as one product, whose shapes depend on no data.

    ``implementation`` is the one that runs without data in the model's precision, if not given. A model that offers
    none keeps its loop over the experts, which asks for the experts that were hit.
    """
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    # Without data PyTorch knows the grouped product in bfloat16 only.
    wanted = implementation or ("grouped_mm" if kinds <= {torch.bfloat16} else "batched_mm")
    with contextlib.ExitStack() as stack:
        for inner in outermost_with(model, "set_experts_implementation"):
            previous = getattr(getattr(inner, "config", None), "_experts_implementation", None)
            if previous is not None:
                with contextlib.suppress(ValueError):
                    inner.set_experts_implementation(wanted)
                    stack.callback(inner.set_experts_implementation, previous)
        yield


@contextlib.contextmanager
def module_paths(model: nn.Module, running: list[str]) -> Iterator[None]:
    """Keep the paths of the running modules on ``running``, the innermost last."""
    names = {id(module): name for name, module in model.named_modules()}

    def enter(module: nn.Module, _: Any) -> None:
        running.append(names.get(id(module)) or (running[-1] if running else ""))

    def leave(*_: Any) -> None:  # a hook that returned anything would replace the module's output
        running.pop()

    # Two hooks for all modules: thousands of single ones would cost more than the forward of a small model.
    handles = [
        register_module_forward_pre_hook(enter),
        register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
