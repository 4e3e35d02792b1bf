"""Watches a running forward and lets a rule relate the dimensions of every operation.

Sources: PyTorch's ``TorchDispatchMode``, which sees each aten operation with its real tensors, so control flow
that depends on data simply runs.
"""

from __future__ import annotations

import os
import weakref
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from moeverify.base.foreign import left_by
from moeverify.base.lines import line_of_running_code
from moeverify.coupling.relations import Operation, Relations
from moeverify.coupling.rules import SPARE, Call, Rule, rule_for
from moeverify.errors import TraceError
from moeverify.models.containers import leaves

# Set by a test suite, so that a rule that fails ends the trace with its own error.
RULES_RAISE = "MOEVERIFY_RULES_RAISE"
UNREAD = "its result was never used by a recorded operation"
RESHAPED = "its shape was changed in place"
UNSEEN_VIEW = "seen through a view that no recorded operation made"


# A tensor's place in its storage: offset, shape, stride, type.
_Layout = tuple[int, torch.Size, tuple[int, ...], torch.dtype]


class _Seen(NamedTuple):
    """Record of a tensor, deleted through ``reference`` when the tensor is. ``storage``: address of its storage."""

    reference: weakref.ref[torch.Tensor]
    dims: tuple[int, ...]
    shape: torch.Size
    storage: int
    layout: _Layout


class _Made(NamedTuple):
    """Output of an operation, by the operation's number and its position among the outputs."""

    dims: tuple[int, ...]
    operation: int
    position: int
    storage: int


class Recorder(TorchDispatchMode):
    """Applies a rule to every operation while the forward runs.

    Tensors are held weakly, so that a traced forward keeps no activation longer than a plain one does. ``run``
    executes an operation; a weightless trace passes its own.
    """

    def __init__(self, model: nn.Module, run: Callable[..., Any] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch's modes have no types
        self.relations = Relations()
        self.unknown: Counter[str] = Counter()
        self.failed: dict[str, str] = {}
        self.modules: list[str] = []
        self.paused = 0
        self.tensors: dict[str, tuple[int, ...]] = {}
        self.aliases: dict[str, str] = {}
        self.touched: set[str] = set()
        self.run = run or _execute
        self._known: dict[int, _Seen] = {}
        self._names: dict[int, str] = {}
        self._operators: dict[Any, tuple[str, Rule | None, bool]] = {}
        # A weak reference keeps the address of a storage from being used again.
        self._storages: dict[int, StorageWeakRef] = {}
        self._views: dict[int, list[tuple[_Layout, tuple[int, ...], str]]] = defaultdict(list)
        self._produced: list[_Made] = []
        self._reads: dict[int, int] = {}
        self.escaped: set[int] = set()
        self.storage_of: dict[str, int] = {}
        # Ranges of ``_produced`` from the run of one expert, with a map to the dimensions of another one's copy.
        self.copies: list[tuple[int, int, Callable[[Sequence[int]], tuple[int, ...]]]] = []
        parameters, buffers = _named_tensors(model)
        for name, tensor in (*parameters, *buffers):
            first = self._names.get(id(tensor))
            if first is not None:
                self.aliases[name] = first
                continue
            self._names[id(tensor)] = name
            seen = self._register(tensor, name=name)
            self.tensors[name] = seen.dims
            self.storage_of[name] = seen.storage
            for layout, dims, _ in self._views[seen.storage][:-1]:
                if layout == seen.layout:  # two parameters over one memory are tied as well
                    self.relations.equal_all(dims, seen.dims)
        self.parameters = tuple(name for name, _ in parameters if name not in self.aliases)
        self.buffers = frozenset(name for name, _ in buffers if name not in self.aliases)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Turn off PyTorch's compile guard around modes, since nothing is compiled here and each call costs less
        without it.
        """
        return False

    def _register(self, tensor: torch.Tensor, dims: tuple[int, ...] | None = None, name: str = "") -> _Seen:
        key = id(tensor)
        storage = tensor.untyped_storage()
        where = storage._cdata
        if where not in self._storages:
            self._storages[where] = StorageWeakRef(storage)
        new = dims is None
        if dims is None:
            dims = self.relations.new_dims(tensor.shape)
        reference = weakref.ref(tensor, lambda _: self._known.pop(key, None))
        layout = (int(tensor.storage_offset()), tensor.shape, tensor.stride(), tensor.dtype)
        seen = self._known[key] = _Seen(reference, dims, tensor.shape, where, layout)
        if new and tensor.numel():
            self._views[where].append((layout, dims, name))
        return seen

    def _look_up(self, tensor: torch.Tensor) -> _Seen:
        """Record of a tensor. A tensor not seen before is an alias of a known one, or else a constant, whose dimensions
        are frozen.
        """
        seen = self._known.get(id(tensor))
        if seen is not None:
            if (
                seen.shape == tensor.shape
                and (seen.layout[2] == tensor.stride() or _same_order(seen.layout, tensor.stride()))
                and seen.storage == tensor.untyped_storage()._cdata
            ):
                return seen
            # Shape, order or data changed under the tensor's identity (`t_`, `x.data = ...`): all is forgotten.
            self.relations.freeze_all(seen.dims, RESHAPED)
            if seen.storage == tensor.untyped_storage()._cdata:
                seen = self._register(tensor)
                self.relations.freeze_all(seen.dims, RESHAPED)
                return seen
        views = self._views.get(tensor.untyped_storage()._cdata, ())
        layout = (int(tensor.storage_offset()), tensor.shape, tensor.stride(), tensor.dtype)
        for known, dims, name in views:
            if known == layout:
                self.touched.update([name] if name else ())
                return self._register(tensor, dims)
        span = _span(layout)
        for known, dims, name in views:
            low, high = _span(known)
            if low < span[1] and span[0] < high:
                self.touched.update([name] if name else ())
                self.relations.freeze_all(dims, UNSEEN_VIEW)
        seen = self._register(tensor)
        self.relations.freeze_all(seen.dims, UNSEEN_VIEW if views else "a constant or input of the program")
        return seen

    @property
    def made_dims(self) -> list[tuple[int, tuple[int, ...]]]:
        """Pairs: number of an operation, and dimensions of a tensor that it made."""
        return [(made.operation, made.dims) for made in self._produced]

    @property
    def produced(self) -> int:
        """Number of tensors that the recorded operations have made."""
        return len(self._produced)

    def dims_of(self, tensor: torch.Tensor) -> tuple[int, ...]:
        """The dimensions of a tensor, in order."""
        return self._look_up(tensor).dims

    def read(self, tensor: torch.Tensor) -> None:
        """Record that the running operation uses a tensor's data."""
        self._reads[self._look_up(tensor).storage] = self.relations.current

    def was_read_after(self, value: Any, number: int) -> bool:
        """Whether an operation after number ``number`` used the data of ``value``; ``False`` for what is no tensor."""
        return isinstance(value, torch.Tensor) and self._reads.get(self._look_up(value).storage, -1) > number

    def produce(self, tensor: torch.Tensor) -> tuple[int, ...]:
        """New dimensions, not frozen, for a tensor that no recorded operation made, such as an input."""
        return (self._known.get(id(tensor)) or self._register(tensor)).dims

    def freeze(self, value: Any, reason: str) -> None:
        """Freeze every dimension of every tensor in a nested value, and mark it as read."""
        self.relations.operations.append(Operation("(model)", ""))
        for leaf in leaves(value):
            if isinstance(leaf, torch.Tensor):
                seen = self._look_up(leaf)
                self.relations.freeze_all(seen.dims, reason)
                self._reads[seen.storage] = self.relations.current + 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # asks for a device or layout, not for data
            return func(*args, **kwargs)
        if self.paused:
            return self.run(func, args, kwargs)
        known = self._operators.get(func)
        if known is None:
            known = self._operators[func] = _operator(func)
        name, rule, changes = known
        self.relations.operations.append(Operation(name, self.modules[-1] if self.modules else ""))
        number = self.relations.current
        here: dict[int, tuple[int, ...]] = {}
        for tensor in tensors_in(args, kwargs):
            seen = self._look_up(tensor)  # before the operation: in-place ones may change the shape
            self._reads[seen.storage] = number
            here[id(tensor)] = seen.dims
            parameter = self._names.get(id(tensor))
            if parameter is not None:
                self.touched.add(parameter)
        result = self.run(func, args, kwargs)
        outputs = (result,) if isinstance(result, torch.Tensor) else tuple(tensors_in((result,), {}))
        for position, output in enumerate(outputs):
            if id(output) not in here:
                seen = self._known.get(id(output)) or self._register(output)
                here[id(output)] = seen.dims
                if position and name in SPARE:
                    continue  # serves the backward pass
                self._produced.append(_Made(seen.dims, number, position, seen.storage))
        # An operation that writes to no argument leaves the records of its tensors valid.
        dims_of = self.dims_of if changes else lambda tensor: here.get(id(tensor)) or self.dims_of(tensor)
        call = Call(name, tuple(args), dict(kwargs), outputs, dims_of)
        stated = self._stated()
        problem = f"there is no rule for {name}" if rule is None else self._problem(rule, call)
        if problem:
            self.unknown[name] += 1
            for tensor in (*call.tensors(), *outputs):
                self.relations.freeze_all(self.dims_of(tensor), problem)
        if stated != self._stated():
            self.relations.lines[number] = line_of_running_code()
        return result

    def _stated(self) -> tuple[int, ...]:
        """Counts of the kinds of relations whose line of code a user may see."""
        relations = self.relations
        return len(relations.freezes), len(relations.segments), len(relations.products)

    def _problem(self, rule: Rule, call: Call) -> str:
        """Apply a rule, and return its error as text; empty if it succeeds.

        Relations that it stated before an error stay, since they can only add couplings.
        """
        try:
            rule(call, self.relations)
        except Exception as error:
            module = self.modules[-1] if self.modules else ""
            problem = f"the rule for {call.name} failed in {module or '(model)'}: {left_by(error)}"
            if os.environ.get(RULES_RAISE, "0") != "0":
                raise TraceError(problem) from error
            self.failed.setdefault(call.name, problem)
            return problem
        return ""

    def escape(self, tensor: torch.Tensor, way: str) -> None:
        """Freeze a tensor whose data leaves by a method of Python (``.numpy()``)."""
        if not self.paused:
            seen = self._look_up(tensor)
            self.relations.freeze_all(seen.dims, f"its data leaves PyTorch by {way}")
            self.escaped.add(seen.storage)

    def unread(self, matters: Callable[[int], bool] = lambda _: True) -> frozenset[tuple[int, int]]:
        """Outputs that no operation has read since they were made, as (operation number, position of the output).

        Views share their storage's reads. Tensors that left the dispatcher are frozen already (``escape``). Only
        outputs with a prunable dimension, and those in ``matters``, are returned.
        """
        sizes = self.relations.sizes
        return frozenset(
            (made.operation, made.position)
            for made in self._produced
            if made.storage not in self.escaped
            and self._reads.get(made.storage, -1) <= made.operation
            and any(sizes[dim] > 1 and matters(dim) for dim in made.dims)
        )

    def made(self, value: Any) -> frozenset[tuple[int, int]]:
        """Outputs that share storage with a tensor of a nested value, as (operation number, position of the output)."""
        storages = {leaf.untyped_storage()._cdata for leaf in leaves(value) if isinstance(leaf, torch.Tensor)}
        return frozenset((x.operation, x.position) for x in self._produced if x.storage in storages)

    def freeze_unread(self, idle: frozenset[tuple[int, int]]) -> None:
        """Freeze outputs that were never read: a custom kernel may have read them unseen.

        Exception: the outputs in ``idle``, which were shown to have no effect.
        """
        unread = self.unread() - idle
        indices = [i for i, made in enumerate(self._produced) if (made.operation, made.position) in unread]
        for index in indices:
            made = self._produced[index]
            for dim in made.dims:
                self.relations.freeze(dim, UNREAD, made.operation)
        for start, end, copied in self.copies:
            for index in indices[bisect_left(indices, start) : bisect_left(indices, end)]:
                self.relations.freeze_all(copied(self._produced[index].dims), UNREAD)


def _named_tensors(model: nn.Module) -> tuple[list[tuple[str, torch.Tensor]], list[tuple[str, torch.Tensor]]]:
    """All parameters and all buffers under every name that they have, from one walk over the modules."""
    parameters: list[tuple[str, torch.Tensor]] = []
    buffers: list[tuple[str, torch.Tensor]] = []
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for slots, tensors in ((module._parameters, parameters), (module._buffers, buffers)):
            tensors += [(prefix + name, tensor) for name, tensor in slots.items() if tensor is not None]
    return parameters, buffers


def _execute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)


def _operator(func: Any) -> tuple[str, Rule | None, bool]:
    """Packet name of an operation, its rule or ``None``, and whether it writes to an argument."""
    name = f"{func.namespace}.{func._schema.name.split('::')[1]}"
    return name, rule_for(name, func.tags), func._schema.is_mutable


def tensors_in(args: Iterable[Any], kwargs: dict[str, Any]) -> Iterator[torch.Tensor]:
    """All tensors among the arguments of an operation, including those in lists."""
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            for item in value:
                if isinstance(item, torch.Tensor):
                    yield item


def _same_order(layout: _Layout, stride: tuple[int, ...]) -> bool:
    """Whether strides differ only in dimensions of size 1, whose strides have no effect and depend on the memory
    format.
    """
    _, shape, before, _ = layout
    return all(size == 1 or old == new for size, old, new in zip(shape, before, stride, strict=True))


def _span(layout: _Layout) -> tuple[int, int]:
    """The bytes of its storage that a tensor lies in, as a half-open range."""
    offset, shape, stride, dtype = layout
    if 0 in shape:
        return 0, 0
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    return offset * dtype.itemsize, (last + 1) * dtype.itemsize
