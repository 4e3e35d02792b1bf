"""Records the operations of one forward under PyTorch's ``TorchDispatchMode``, with or without weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from moeverify.base.collector import without_collector
from moeverify.base.foreign import left_by
from moeverify.base.lines import line_of_error, line_of_running_code
from moeverify.coupling.tracing.on_meta import OnMeta, inputs_on_meta
from moeverify.coupling.tracing.weightless import Imagination, fake_weights
from moeverify.errors import TraceError
from moeverify.models.containers import leaves
from moeverify.models.forward import (
    Example,
    eager_attention,
    module_paths,
    plain_operations,
    static_experts,
)
from moeverify.models.state import same_start
from moeverify.pruning.constants.numbers import RESHAPES, Forward, Step
from moeverify.pruning.plan.plan import Reason

# These ask for positions or for memory: their numbers are sizes.
_SIZES = ("arange", "linspace", "logspace", "range", "empty", "new_empty", "zeros", "ones", "new_zeros", "new_ones")
# A constant given as a tensor (`torch.tensor(8.0)`) has its numbers inside; more of them are a table.
_FEW = 16
_OUTSIDE = -1
# Operations that take sizes from the program as well.
_CUTS = frozenset({"slice", "split", "split_with_sizes", "narrow", "expand", "repeat"})


class ForwardFailed(TraceError):
    """A forward that failed while it was recorded: after ``steps`` operations, at ``line`` of the user's code."""

    def __init__(self, message: str, forward: Forward, line: str) -> None:
        super().__init__(message)
        self.forward = forward
        self.line = line

    @property
    def where(self) -> Reason:
        """The exception that the forward raised, and the line of the user's code."""
        return Reason(f"the forward does not run with the pruned sizes ({one_line(self.__cause__ or self)})", self.line)


def one_line(error: BaseException) -> str:
    """Type and message of an exception."""
    return left_by(error)


class _Recorder(TorchDispatchMode):
    """Numbers the values of a running forward and records the arguments of every operation.

    ``given``: ids of the tensors that the forward begins with beside the parameters. Any other meta tensor that no
    recorded operation made is a constant, whose values nothing shows: it raises ``TraceError``. ``None``: not checked.
    """

    def __init__(self, model: nn.Module, run: Imagination, given: set[int] | None) -> None:
        super().__init__()
        self.forward = Forward()
        self.modules: list[str] = []
        self._run, self._given = run, given
        self._alive: list[torch.Tensor] = []  # an address is not used again while the tensor lives
        self._values: dict[int, int] = {}
        self._storages: dict[int, list[torch.Tensor]] = defaultdict(list)
        for name, parameter in model.named_parameters():
            self.forward.parameters[self.value_of(parameter)] = name

    def value_of(self, tensor: torch.Tensor, *, changed: bool = False) -> int:
        """Number of the value that a tensor holds now."""
        known = self._values.get(id(tensor))
        if known is not None and not changed:
            return known
        value = self._values[id(tensor)] = len(self.forward.shapes)
        self.forward.shapes[value] = tuple(tensor.shape)
        if known is None:
            self._alive.append(tensor)
            self._storages[tensor.untyped_storage()._cdata].append(tensor)
        return value

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":
            return func(*args, **kwargs)
        self.forward.entered += 1
        inputs: dict[int | str, int] = {}
        numbers: dict[int | str, float] = {}
        ints: dict[str, int] = {}
        name, operation, mutable = _facts(func)
        given: tuple[tuple[int | str, Any], ...] = (*enumerate(args), *kwargs.items())
        for position, value in given:
            if name == "lift_fresh":
                numbers.update(_inside(value))
            for place, part in _parts(position, value):
                if isinstance(part, torch.Tensor):
                    self._refuse_constant(part)
                    inputs[place] = self.value_of(part)
                elif type(part) in (int, float) and _is_number(func, position) and name not in _SIZES:
                    numbers[place] = float(part)
                if type(part) is int:
                    ints[_argument(func, position, place)] = part
        result = self._run(func, args, kwargs)
        shared = self._shared_with_written(func, args, kwargs) if mutable else []
        self.forward.muddled.update(self._values[id(tensor)] for tensor in shared)
        results = [result] if isinstance(result, torch.Tensor) else tree_leaves(result)
        made = [leaf for leaf in results if isinstance(leaf, torch.Tensor)]
        if made and not any(leaf.is_floating_point() or leaf.dtype is torch.bool for leaf in made):
            numbers = {}  # positions are computed, not what the model computes
        outputs = tuple(self.value_of(leaf, changed=mutable) for leaf in made)
        self.forward.muddled.update(self._values[id(tensor)] for tensor in shared)
        module = self.modules[-1] if self.modules else ""
        line = line_of_running_code() if numbers or name in RESHAPES or name in _CUTS else ""
        self._note(Step(operation, module, inputs, numbers, outputs, line, ints))
        return result

    def _refuse_constant(self, tensor: torch.Tensor) -> None:
        if self._given is not None and tensor.is_meta and not (id(tensor) in self._values or id(tensor) in self._given):
            raise TraceError("a constant on the meta device has no values")

    def _shared_with_written(self, func: Any, args: tuple, kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
        """Tensors that share memory with one that the operation writes; all of them hold another value afterwards."""
        result: list[torch.Tensor] = []
        for number, argument in enumerate(func._schema.arguments):
            given = args[number] if number < len(args) else kwargs.get(argument.name)
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(given, torch.Tensor):
                here = self._storages[given.untyped_storage()._cdata]
                result += here if len(here) > 1 else []
        return result

    def _note(self, step: Step) -> None:
        number = len(self.forward.steps)
        self.forward.steps.append(step)
        for value in step.inputs.values():
            self.forward.readers[value].append(number)
        for value in step.outputs:
            if value not in step.inputs.values():
                self.forward.makers[value] = number

    def finish(self, output: Any) -> Forward:
        """The record, with the model's output marked as read."""
        for leaf in leaves(output):
            if isinstance(leaf, torch.Tensor):
                self.forward.readers[self.value_of(leaf)].append(_OUTSIDE)
        return self.forward


@cache
def _facts(func: Any) -> tuple[str, str, bool]:
    """Name of an operation without and with its namespace, and whether it changes a tensor."""
    name = func._schema.name.split("::")[1]
    return name, f"{func.namespace}.{name}", func._schema.is_mutable


def _parts(position: int | str, value: Any) -> Iterator[tuple[int | str, Any]]:
    if isinstance(value, list | tuple):
        yield from ((f"{position}.{number}", part) for number, part in enumerate(value))
    else:
        yield position, value


@cache
def _argument(func: Any, position: int | str, place: int | str) -> str:
    """Name of an argument, with the index of the element if it is a list."""
    arguments = func._schema.arguments
    name = position if isinstance(position, str) or position >= len(arguments) else arguments[position].name
    return str(name) if place == position else f"{name}.{str(place).rpartition('.')[2]}"


@cache
def _is_number(func: Any, position: int | str) -> bool:
    """Whether a non-tensor argument is a number to compute with, rather than a size, an axis or an index."""
    arguments = func._schema.arguments
    if isinstance(position, str):
        argument = next((a for a in arguments if a.name == position), None)
    else:
        argument = arguments[position] if position < len(arguments) else None
    kind = str(argument.type) if argument is not None else ""
    return any(word in kind for word in ("number", "float", "Tensor"))


def _inside(value: Any) -> dict[str, float]:
    """Numbers in a constant that is a tensor."""
    if not isinstance(value, torch.Tensor) or isinstance(value, FakeTensor):
        return {}
    if not value.is_floating_point() or value.numel() > _FEW:
        return {}
    with unset_fake_temporarily():
        return {f"value.{number}": entry for number, entry in enumerate(value.flatten().tolist())}


@contextmanager
def _own_weights(model: nn.Module, inputs: Any) -> Iterator[Any]:
    """A context with the model and its own weights; restores PyTorch's random generator."""
    with torch.random.fork_rng(devices=[]):
        yield inputs


def record_forward(model: nn.Module, example: Example, *, weights: bool = False) -> Forward:
    """Record a forward without weights, or with those that the model has; its parameters and buffers stay the same.

    Raises ``ForwardFailed`` if the forward fails.
    """
    placed = (_own_weights if weights else fake_weights)(model, example.inputs)
    return _record(model, example, Imagination(), placed, "" if weights else " without weights")


def record_on_meta(model: nn.Module, example: Example) -> Forward:
    """Record a forward of a model that lies on the meta device, at a fraction of the cost of ``record_forward``.

    The two records may differ where a program asks for the device, so compare like with like. Raises
    ``ForwardFailed`` as well where only ``record_forward`` would run, or where a constant would be lost.
    """
    return _record(model, example, OnMeta(), inputs_on_meta(example.inputs), " on the meta device")


def _record(
    model: nn.Module, example: Example, run: Imagination, placed: AbstractContextManager[Any], how: str
) -> Forward:
    """Record a forward. ``placed``: a context in which the model can be called with the inputs that it yields."""
    recorder: _Recorder | None = None
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with (
            same_start(model),
            placed as inputs,
            static_experts(model, "batched_mm"),
            eager_attention(model),
            plain_operations(model),
            without_collector(),
            torch.no_grad(),
        ):
            began = (*model.buffers(), *tree_leaves(inputs)) if isinstance(run, OnMeta) else None
            recorder = _Recorder(model, run, None if began is None else {id(tensor) for tensor in began})
            with module_paths(model, recorder.modules), recorder:
                output = example(model, inputs)
            return recorder.finish(output)
    except Exception as error:
        forward = Forward() if recorder is None else recorder.forward
        message = f"the forward failed{how} ({one_line(error)})"
        raise ForwardFailed(message, forward, line_of_error(error)) from error
    finally:
        for module in training:
            module.training = True
