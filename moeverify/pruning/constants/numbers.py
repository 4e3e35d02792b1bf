"""Plain numbers that a forward computes with, such as ``x * config.hidden_size**0.5``, and which follow from a size.

An operation gets tensors and plain numbers. One forward without weights, recorded under PyTorch's
``TorchDispatchMode``, shows all of them. The same forward of the model that the new configuration builds shows which
are derived from a size.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import SequenceMatcher
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
from moeverify.coupling.tracing.weightless import Imagination, fake_weights
from moeverify.errors import TraceError
from moeverify.models.forward import (
    Example,
    eager_attention,
    module_paths,
    plain_operations,
    static_experts,
)
from moeverify.models.state import same_start
from moeverify.pruning.plan.plan import Reason

# These ask for positions or for memory: their numbers are sizes.
_SIZES = ("arange", "linspace", "logspace", "range", "empty", "new_empty", "zeros", "ones", "new_zeros", "new_ones")
# A constant given as a tensor (`torch.tensor(8.0)`) has its numbers inside; more of them are a table.
_FEW = 16
_OUTSIDE = -1
# Which of them a reshape is depends on the sizes.
RESHAPES = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias"})
# Operations that take sizes from the program as well.
_CUTS = frozenset({"slice", "split", "split_with_sizes", "narrow", "expand", "repeat"})


@dataclass(frozen=True, eq=False)
class Step:
    """One operation of a forward.

    ``inputs``: values in its arguments, by position or keyword. ``numbers``: plain floating-point arguments; ``ints``:
    whole numbers, by argument name. ``line``: the ``file:line`` of the user's code, for operations that reshape or get
    a number.
    """

    operation: str
    module: str
    inputs: Mapping[int | str, int]
    numbers: Mapping[int | str, float]
    outputs: tuple[int, ...]
    line: str = ""
    ints: Mapping[str, int] = field(default_factory=dict)


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


@dataclass(eq=False)
class Forward:
    """A recorded forward. A *value* is what one tensor held at one time, numbered in the order they appeared.

    ``makers``: step that made a value. ``readers``: steps that used it (``-1``: it is the model's output).
    ``parameters``: names of values that are parameters. ``shapes``: all shapes. ``muddled``: values that may have been
    changed through another tensor with the same memory. ``entered``: number of operations that began, including one
    that raised.
    """

    steps: list[Step] = field(default_factory=list)
    makers: dict[int, int] = field(default_factory=dict)
    readers: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    parameters: dict[int, str] = field(default_factory=dict)
    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    muddled: set[int] = field(default_factory=set)
    entered: int = 0


@dataclass(frozen=True)
class Number:
    """A number that changes with the configuration. ``step`` is ``None`` if only the new forward has it."""

    module: str
    operation: str
    old: float
    new: float
    step: int | None = None
    position: int | str = 0
    line: str = ""

    @property
    def name(self) -> str:
        """Operation and argument, for messages."""
        return f"the number {self.old:.6g} that the forward of {self.module or 'the model'} gives to {self.operation}"


class _Recorder(TorchDispatchMode):
    """Numbers the values of a running forward and records the arguments of every operation."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.forward = Forward()
        self.modules: list[str] = []
        self._run = Imagination()
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
        name = func._schema.name.split("::")[1]
        given: tuple[tuple[int | str, Any], ...] = (*enumerate(args), *kwargs.items())
        for position, value in given:
            if name == "lift_fresh":
                numbers.update(_inside(value))
            for place, part in _parts(position, value):
                if isinstance(part, torch.Tensor):
                    inputs[place] = self.value_of(part)
                elif type(part) in (int, float) and _is_number(func, position) and name not in _SIZES:
                    numbers[place] = float(part)
                if type(part) is int:
                    ints[_argument(func, position, place)] = part
        result = self._run(func, args, kwargs)
        shared = self._shared_with_written(func, args, kwargs) if func._schema.is_mutable else []
        self.forward.muddled.update(self._values[id(tensor)] for tensor in shared)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if made and not any(leaf.is_floating_point() or leaf.dtype is torch.bool for leaf in made):
            numbers = {}  # positions are computed, not what the model computes
        outputs = tuple(self.value_of(leaf, changed=func._schema.is_mutable) for leaf in made)
        self.forward.muddled.update(self._values[id(tensor)] for tensor in shared)
        module = self.modules[-1] if self.modules else ""
        line = line_of_running_code() if numbers or name in RESHAPES or name in _CUTS else ""
        self._note(Step(f"{func.namespace}.{name}", module, inputs, numbers, outputs, line, ints))
        return result

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
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor):
                self.forward.readers[self.value_of(leaf)].append(_OUTSIDE)
        return self.forward


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
    recorder: _Recorder | None = None
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with (
            same_start(model),
            (_own_weights if weights else fake_weights)(model, example.inputs) as inputs,
            static_experts(model, "batched_mm"),
            eager_attention(model),
            plain_operations(model),
            without_collector(),
            torch.no_grad(),
        ):
            recorder = _Recorder(model)
            with module_paths(model, recorder.modules), recorder:
                output = example(model, inputs)
            return recorder.finish(output)
    except Exception as error:
        forward = Forward() if recorder is None else recorder.forward
        message = f"the forward failed {'' if weights else 'without weights '}({one_line(error)})"
        raise ForwardFailed(message, forward, line_of_error(error)) from error
    finally:
        for module in training:
            module.training = True


def changed_numbers(before: Forward, after: Forward) -> list[Number]:
    """Numbers that differ between two forwards of the same architecture, module by module.

    Exception: a number of summed terms, as in a mean written by hand, is no constant.
    """
    ours, theirs = _by_module(before), _by_module(after)
    result: list[Number] = []
    for module, numbers in theirs.items():
        mine = ours.get(module, [])
        names = [before.steps[n].operation for n in mine], [after.steps[n].operation for n in numbers]
        paired: set[int] = set()
        for start, other, length in SequenceMatcher(None, *names, autojunk=False).get_matching_blocks():
            for old, new in zip(mine[start : start + length], numbers[other : other + length], strict=True):
                paired.add(new)
                result += _differing(before, old, after, new)
        known = {(before.steps[n].operation, *before.steps[n].numbers.values()) for n in mine}
        for number in set(numbers) - paired:
            step = after.steps[number]
            if (step.operation, *step.numbers.values()) not in known:
                result += [Number(module, step.operation, math.nan, value) for value in step.numbers.values()]
    return result


def _by_module(forward: Forward) -> dict[str, list[int]]:
    """Steps that compute with floating-point numbers, by the module they run in."""
    result: dict[str, list[int]] = defaultdict(list)
    for number, step in enumerate(forward.steps):
        if step.numbers:
            result[step.module].append(number)
    return result


def _differing(before: Forward, old: int, after: Forward, new: int) -> Iterator[Number]:
    first, second = before.steps[old], after.steps[new]
    for position, value in first.numbers.items():
        other = second.numbers.get(position, math.nan)
        if value == other or (_counts(before, first, value) and _counts(after, second, other)):
            continue
        yield Number(first.module, first.operation, value, other, old, position, first.line)


def _counts(forward: Forward, step: Step, number: float) -> bool:
    """Whether ``step`` divides a sum by the number of its terms."""
    for value in step.inputs.values():
        made = forward.steps[forward.makers[value]] if value in forward.makers else None
        if made is None or made.operation != "aten.sum" or 0 not in made.inputs:
            continue
        whole, left = (math.prod(forward.shapes[v]) for v in (made.inputs[0], value))
        count = whole / left if left else 0.0
        if step.operation == "aten.div" and number == count:
            return True
        if step.operation == "aten.mul" and math.isclose(number * count, 1.0):
            return True
    return False
