"""Run one ordinary forward and keep how every operation relates dimensions."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from moeverify.coupling.dims import Operation, Relations
from moeverify.coupling.escapes import Escapes
from moeverify.coupling.opaque import Opaque, opaque_layers
from moeverify.coupling.recorder import Recorder
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
def static_experts(model: nn.Module) -> Iterator[None]:
    """Let fused experts of a transformers model run as one product, whose shapes depend on no data.

    A model that offers none keeps its loop over the experts, and is told which ones were hit.
    """
    previous = getattr(getattr(model, "config", None), "_experts_implementation", None)
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    # Without data PyTorch knows the grouped product in bfloat16 only.
    wanted = "grouped_mm" if kinds <= {torch.bfloat16} else "batched_mm"
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


def _drop(modules: list[str]) -> None:
    """Leave the innermost module; a hook that returned anything would replace the module's output."""
    modules.pop()


@contextlib.contextmanager
def _module_paths(model: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Keep the path of the running module on ``recorder.modules``."""
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: recorder.modules.append(name)))
        handles.append(module.register_forward_hook(lambda *_: _drop(recorder.modules), always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _remember_calls(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple]]:
    """Arguments and output of each of ``modules`` that runs."""
    calls: dict[str, tuple] = {}
    handles = [
        module.register_forward_hook(
            lambda _, args, kwargs, out, name=name: calls.__setitem__(name, (args, kwargs, out)),
            with_kwargs=True,
        )
        for name, module in modules.items()
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


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
    does not reach is run on what a reached sibling received, so that its dimensions are known as well. ``opaque``
    gives layers, by path, that are not looked into.
    Raises ``TraceError`` if the model's forward fails.
    """
    if is_weightless(model):
        imagination = Imagination()
        with fake_weights(model, example_inputs) as fake_inputs, static_experts(model):
            recorder = _record(
                model, fake_inputs, Recorder(model, imagination), forward_fn, output_transform, expert_lists, opaque
            )
        imagined = dict(imagination.told)
    else:
        recorder = _record(model, example_inputs, Recorder(model), forward_fn, output_transform, expert_lists, opaque)
        imagined = {}
    return Trace(
        relations=recorder.relations,
        tensors=recorder.tensors,
        aliases=recorder.aliases,
        buffers=frozenset(n for n, _ in model.named_buffers()),
        unknown=dict(recorder.unknown),
        untouched=tuple(n for n, _ in model.named_parameters() if n not in recorder.touched),
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
) -> Recorder:
    modules = dict(model.named_modules())
    experts = {name: modules[name] for names in expert_lists for name in names}
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with (
            torch.no_grad(),
            eager_attention(model),
            _module_paths(model, recorder),
            opaque_layers(modules, recorder, opaque or {}),
            Escapes(recorder.escape),
            recorder,
        ):
            for leaf in tree_leaves(example_inputs):
                if isinstance(leaf, torch.Tensor):
                    recorder.relations.freeze_all(recorder.produce(leaf), "dimension of the model's input")
            with _remember_calls(experts) as calls:
                if forward_fn is not None:
                    output = forward_fn(model, example_inputs)
                else:
                    output = call_model(model, example_inputs, use_cache=False)
                for names in expert_lists:
                    _reach(names, modules, calls, recorder)
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
        for module, training in was_training.items():
            module.training = training
    recorder.freeze_unconsumed()
    return recorder


def _reach(names: Sequence[str], modules: Mapping[str, nn.Module], calls: dict[str, tuple], recorder: Recorder) -> None:
    """Run the experts of one layer that no token reached as a reached sibling was run."""
    reached = next((calls[name] for name in names if name in calls), None)
    if reached is None:
        return
    args, kwargs, expected = reached
    for name in names:
        if name in calls:
            continue
        result = modules[name](*args, **kwargs)
        recorder.relations.operations.append(Operation("(sibling expert)", name))
        for mine, theirs in zip(tree_leaves(result), tree_leaves(expected), strict=False):
            if isinstance(mine, torch.Tensor) and isinstance(theirs, torch.Tensor):
                recorder.relations.equal_all(recorder.dims_of(mine), recorder.dims_of(theirs))
                recorder.read(mine)
