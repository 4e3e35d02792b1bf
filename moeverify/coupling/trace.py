"""Run one ordinary forward and record how every operation relates dimensions.

Sources: PyTorch's ``TorchDispatchMode``, which sees each aten operation with its real tensors, so control flow
that depends on data simply runs.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from moeverify.coupling.dims import Operation, Relations
from moeverify.coupling.rules import RULES, Call
from moeverify.coupling.rules.pointwise import pointwise
from moeverify.errors import TraceError


@dataclass(frozen=True)
class Trace:
    """What one traced forward leaves: relations, and the dimensions of every parameter and buffer.

    ``tensors[name]`` are the dimension numbers of a parameter or buffer, ``aliases`` maps further names of tied
    tensors to the first one, ``buffers`` names those that are buffers, ``unknown`` counts operations without a
    rule, ``untouched`` names the parameters that no operation used.
    """

    relations: Relations
    tensors: Mapping[str, tuple[int, ...]]
    aliases: Mapping[str, str]
    buffers: frozenset[str]
    unknown: Mapping[str, int]
    untouched: tuple[str, ...]


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


class _Recorder(TorchDispatchMode):
    """Applies a rule to every operation while the forward runs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.relations = Relations()
        self.unknown: dict[str, int] = {}
        self.modules: list[str] = []
        self.tensors: dict[str, tuple[int, ...]] = {}
        self.aliases: dict[str, str] = {}
        self.touched: set[str] = set()
        self._known: dict[int, tuple[torch.Tensor, tuple[int, ...], torch.Size]] = {}
        self._names: dict[int, str] = {}
        self._layouts: dict[tuple, str] = {}
        self._produced: dict[int, tuple[torch.Tensor, int]] = {}
        self._reads: dict[int, int] = {}
        named = [
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        ]
        for name, tensor in named:
            first = self._names.get(id(tensor))
            if first is not None:
                self.aliases[name] = first
                continue
            self._names[id(tensor)] = name
            self.tensors[name] = self._register(tensor)
            if tensor.numel():
                self._layouts[self._layout(tensor)] = name

    @staticmethod
    def _layout(tensor: torch.Tensor) -> tuple:
        try:
            address = tensor.data_ptr()
        except RuntimeError:  # fake tensors have no memory
            address = id(tensor)
        return address, tuple(tensor.shape), tensor.stride(), tensor.dtype

    @staticmethod
    def _storage(tensor: torch.Tensor) -> int:
        return tensor.untyped_storage()._cdata

    def _register(self, tensor: torch.Tensor) -> tuple[int, ...]:
        dims = self.relations.new_dims(tensor.shape)
        self._known[id(tensor)] = (tensor, dims, tensor.shape)
        return dims

    def dims_of(self, tensor: torch.Tensor) -> tuple[int, ...]:
        """Dimensions of a tensor; one never seen before is a parameter's alias or a frozen constant."""
        known = self._known.get(id(tensor))
        if known is not None:
            _, dims, shape = known
            if shape == tensor.shape:
                return dims
            # An in-place operation changed the shape under the tensor's identity: nothing is known any more.
            self.relations.freeze_all(dims, "its shape was changed in place")
            dims = self._register(tensor)
            self.relations.freeze_all(dims, "its shape was changed in place")
            return dims
        name = self._layouts.get(self._layout(tensor)) if tensor.numel() else None
        if name is not None:
            self.touched.add(name)
            self._known[id(tensor)] = (tensor, self.tensors[name], tensor.shape)
            return self.tensors[name]
        dims = self._register(tensor)
        self.relations.freeze_all(dims, "a constant or input of the program")
        return dims

    def freeze(self, value: Any, reason: str) -> None:
        """Freeze every dimension of every tensor in a nested value."""
        self.relations.operations.append(Operation("(model)", ""))
        for leaf in tree_leaves(value):
            if isinstance(leaf, torch.Tensor):
                self.relations.freeze_all(self.dims_of(leaf), reason)
                self._reads[self._storage(leaf)] = self.relations.current + 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = f"{func.namespace}.{func._schema.name.split('::')[1]}"
        self.relations.operations.append(Operation(name, self.modules[-1] if self.modules else ""))
        number = self.relations.current
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        for tensor in inputs:
            self.dims_of(tensor)  # before the operation: in-place ones may change the shape
            self._reads[self._storage(tensor)] = number
            if id(tensor) in self._names:
                self.touched.add(self._names[id(tensor)])
        result = func(*args, **kwargs)
        outputs = tuple(leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
        given = {id(tensor) for tensor in inputs}
        for output in outputs:
            if id(output) not in self._known:
                self._register(output)
            if id(output) not in given:
                self._produced[id(output)] = (output, number)
        self._apply(name, func, Call(name, tuple(args), dict(kwargs), outputs, self.dims_of))
        return result

    def _apply(self, name: str, func: Any, call: Call) -> None:
        known = RULES.get(name)
        if known is None and torch.Tag.pointwise in func.tags:
            known = pointwise
        if known is not None:
            known(call, self.relations)
            return
        self.unknown[name] = self.unknown.get(name, 0) + 1
        for tensor in (*call.tensors(), *call.outputs):
            self.relations.freeze_all(self.dims_of(tensor), f"no rule for {name}")

    def freeze_unconsumed(self) -> None:
        """Data can leave the dispatcher (``.numpy()``): what was produced and never read again is frozen."""
        self.relations.operations.append(Operation("(program)", ""))
        for tensor, number in self._produced.values():
            if self._reads.get(self._storage(tensor), -1) <= number:
                self.relations.freeze_all(self.dims_of(tensor), "produced and never used by a recorded operation")


def _drop(modules: list[str]) -> None:
    """Leave the innermost module; a hook that returned anything would replace the module's output."""
    modules.pop()


@contextlib.contextmanager
def _module_paths(model: nn.Module, recorder: _Recorder) -> Iterator[None]:
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
) -> Trace:
    """Trace one forward of ``model``.

    ``expert_lists`` names the listed experts of each MoE layer (module paths): an expert that the example input
    does not reach is run on what a reached sibling received, so that its dimensions are known as well.
    Raises ``TraceError`` if the model's forward fails.
    """
    recorder = _Recorder(model)
    modules = dict(model.named_modules())
    experts = {name: modules[name] for names in expert_lists for name in names}
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), eager_attention(model), _module_paths(model, recorder), recorder:
            for leaf in tree_leaves(example_inputs):
                if isinstance(leaf, torch.Tensor):
                    recorder.relations.freeze_all(recorder.dims_of(leaf), "dimension of the model's input")
            with _remember_calls(experts) as calls:
                if forward_fn is not None:
                    output = forward_fn(model, example_inputs)
                else:
                    output = call_model(model, example_inputs, use_cache=False)
                for names in expert_lists:
                    _reach(names, modules, calls, recorder)
            output = output_transform(output) if output_transform is not None else output
            recorder.freeze(output, "dimension of the model's output")
    except TraceError:
        raise
    except Exception as error:
        raise TraceError(
            f"the model's forward failed while it was traced ({type(error).__name__}: {error}); "
            "check that it runs with these example inputs"
        ) from error
    finally:
        for module, training in was_training.items():
            module.training = training
    recorder.freeze_unconsumed()
    parameters = [n for n, _ in model.named_parameters()]
    return Trace(
        relations=recorder.relations,
        tensors=recorder.tensors,
        aliases=recorder.aliases,
        buffers=frozenset(n for n, _ in model.named_buffers()),
        unknown=recorder.unknown,
        untouched=tuple(n for n in parameters if n not in recorder.touched),
    )


def _reach(
    names: Sequence[str], modules: Mapping[str, nn.Module], calls: dict[str, tuple], recorder: _Recorder
) -> None:
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
                recorder._reads[recorder._storage(mine)] = recorder.relations.current
