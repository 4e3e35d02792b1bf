"""Run one ordinary forward and keep how every operation relates dimensions."""

from __future__ import annotations

import contextlib
import gc
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._pytree import tree_leaves

from moeverify.coupling.dims import Relations
from moeverify.coupling.divisions import state_common_factors
from moeverify.coupling.escapes import Escapes
from moeverify.coupling.idle import idle_results
from moeverify.coupling.opaque import Opaque, opaque_layers
from moeverify.coupling.recorder import Recorder
from moeverify.coupling.siblings import Siblings
from moeverify.coupling.weightless import Imagination, fake_weights, is_weightless
from moeverify.errors import TraceError


@dataclass(frozen=True)
class Trace:
    """What one traced forward leaves: relations, and the dimensions of every parameter and buffer.

    ``tensors[name]`` are the dimension numbers of a parameter or buffer, ``aliases`` maps further names of tied
    tensors to the first one, ``buffers`` names those that are buffers, ``unknown`` counts operations without a
    rule, ``untouched`` names the parameters that no operation used, ``imagined`` counts the answers that a
    weightless trace made up.
    """

    relations: Relations
    tensors: Mapping[str, tuple[int, ...]]
    aliases: Mapping[str, str]
    buffers: frozenset[str]
    unknown: Mapping[str, int]
    untouched: tuple[str, ...]
    imagined: Mapping[str, int] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Shape of every parameter and buffer when it was traced."""
        return {name: [self.relations.sizes[dim] for dim in dims] for name, dims in self.tensors.items()}


def call_model(model: nn.Module, example_inputs: Any, **extra: Any) -> Any:
    """Call ``model`` with a mapping as keywords, a sequence as positions, or one tensor.

    ``extra`` keywords are passed only if ``forward`` names them.
    """
    accepted = inspect.signature(model.forward).parameters
    extra = {k: v for k, v in extra.items() if k in accepted}
    if isinstance(example_inputs, Mapping):
        return model(**{**example_inputs, **extra})
    if isinstance(example_inputs, Sequence) and not isinstance(example_inputs, str):
        return model(*example_inputs, **extra)
    return model(example_inputs, **extra)


@contextlib.contextmanager
def eager_attention(model: nn.Module) -> Iterator[None]:
    """Let a transformers model compute attention by plain operations, and put back what it used."""
    previous = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if previous in (None, "eager") or not hasattr(model, "set_attn_implementation"):
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(previous)


@contextlib.contextmanager
def static_experts(model: nn.Module, implementation: str | None = None) -> Iterator[None]:
    """Let fused experts of a transformers model run as one product, whose shapes depend on no data.

    ``implementation`` is the one that runs without data in the model's precision, if not given. A model that offers
    none keeps its loop over the experts, and is told which ones were hit.
    """
    previous = getattr(getattr(model, "config", None), "_experts_implementation", None)
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    # Without data PyTorch knows the grouped product in bfloat16 only.
    wanted = implementation or ("grouped_mm" if kinds <= {torch.bfloat16} else "batched_mm")
    if previous is None or not hasattr(model, "set_experts_implementation"):
        yield
        return
    try:
        model.set_experts_implementation(wanted)
    except ValueError:
        previous = None
    try:
        yield
    finally:
        if previous is not None:
            model.set_experts_implementation(previous)


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


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Hold back Python's collector: a trace makes many small objects, and none of them is garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def trace(
    model: nn.Module,
    example_inputs: Any,
    *,
    forward_fn: Callable[[nn.Module, Any], Any] | None = None,
    output_transform: Callable[[Any], Any] | None = None,
    expert_lists: Sequence[Sequence[str]] = (),
    opaque: Mapping[str, Opaque] | None = None,
) -> Trace:
    """Trace one forward of ``model``.

    ``expert_lists`` names the listed experts of each MoE layer (module paths): an expert that the example input
    does not reach is covered by what a reached sibling did, so that its dimensions are known as well. ``opaque``
    gives layers, by path, that are not looked into.
    Raises ``TraceError`` if the model's forward fails.
    """
    given = (forward_fn, output_transform, expert_lists, opaque)
    imagined: dict[str, int] = {}
    if is_weightless(model):
        imagination = Imagination()
        with fake_weights(model, example_inputs) as fake_inputs, static_experts(model):
            recorder = Recorder(model, imagination)
            _record(model, fake_inputs, recorder, *given)  # what has no data cannot leave unseen: none is frozen for it
        imagined = dict(imagination.told)
    else:
        recorder = Recorder(model)
        before = torch.get_rng_state()

        def run(under: Recorder) -> list[Any]:
            return _record(model, example_inputs, under, *given)

        output = run(recorder)
        recorder.freeze_unread(idle_results(recorder, output, lambda: Recorder(model), run, before))
    state_common_factors(recorder.relations)
    return Trace(
        relations=recorder.relations,
        tensors=recorder.tensors,
        aliases=recorder.aliases,
        buffers=recorder.buffers,
        unknown=dict(recorder.unknown),
        untouched=tuple(n for n in recorder.parameters if n not in recorder.touched),
        imagined=imagined,
    )


def _record(
    model: nn.Module,
    example_inputs: Any,
    recorder: Recorder,
    forward_fn: Callable[[nn.Module, Any], Any] | None,
    output_transform: Callable[[Any], Any] | None,
    expert_lists: Sequence[Sequence[str]],
    opaque: Mapping[str, Opaque] | None,
) -> list[Any]:
    """Run the forward under ``recorder``; returns the output, transformed and as it was."""
    modules = dict(model.named_modules())
    training = [module for module in modules.values() if module.training]
    for module in training:
        module.training = False
    siblings = Siblings(expert_lists, modules, recorder, copy=not opaque)
    try:
        with (
            without_collector(),
            torch.no_grad(),
            eager_attention(model),
            module_paths(model, recorder.modules),
            opaque_layers(modules, recorder, opaque or {}),
            Escapes(recorder.escape),
            recorder,
        ):
            for leaf in tree_leaves(example_inputs):
                if isinstance(leaf, torch.Tensor):
                    recorder.relations.freeze_all(recorder.produce(leaf), "dimension of the model's input")
            with siblings.watched():
                if forward_fn is not None:
                    output = forward_fn(model, example_inputs)
                else:
                    output = call_model(model, example_inputs, use_cache=False)
                siblings.reach()
            given, end = output, recorder.relations.current
            output = output_transform(output) if output_transform is not None else output
            # What the transform computes with, such as ``out.logits.sum()``, is the model's output all the same.
            computed_with = [leaf for leaf in tree_leaves(given) if recorder.was_read_after(leaf, end)]
            recorder.freeze([output, computed_with], "dimension of the model's output")
    except TraceError:
        raise
    except Exception as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())
        raise TraceError(
            f"the model's forward failed while it was traced ({line}); check that it runs with these example inputs"
        ) from error
    finally:
        for module in training:
            module.training = True
    return [output, given]
