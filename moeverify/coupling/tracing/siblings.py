"""Listed experts that the example input does not reach.

An expert that no token reached is covered by what a reached sibling did. If the two are alike in everything but the
values of their parameters, the sibling's relations are stated anew with the names exchanged. That costs a fraction of
running the expert. Otherwise it is run on what the sibling received.
"""

from __future__ import annotations

import contextlib
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from moeverify.coupling.relations import Operation
from moeverify.coupling.tracing.recorder import Recorder
from moeverify.models.containers import leaves

_PLAIN = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device)

_SLOTS = (dict, OrderedDict)


def alike(first: Any, second: Any) -> bool:
    """Whether two modules run the same operations as far as can be seen: same classes, shapes and settings.

    Everything that is neither a module, a tensor nor a plain value must be one and the same object.
    """
    if first is second:
        return True
    if type(first) is not type(second):
        return False
    if isinstance(first, _PLAIN):
        return bool(first == second)
    if isinstance(first, torch.Tensor):
        return (first.shape, first.stride(), first.dtype) == (second.shape, second.stride(), second.dtype)
    if isinstance(first, nn.Module):
        return _alike_entries(vars(first), vars(second))
    if isinstance(first, dict):
        return _alike_entries(first, second)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(alike, first, second))
    return isinstance(first, set | frozenset) and not first and not second


def _alike_entries(first: Mapping[Any, Any], second: Mapping[Any, Any]) -> bool:
    if first.keys() != second.keys() or (first and list(first) != list(second)):
        return False
    for key, value in first.items():
        other = second[key]
        if value is other or (type(value) in _SLOTS and type(other) is type(value) and not value and not other):
            continue  # most entries of most modules: not asked one call each
        if not alike(value, other):
            return False
    return True


@dataclass(frozen=True)
class _Mark:
    """Snapshot of the lengths of all lists in the record."""

    sizes: int
    operations: int
    equals: int
    segments: int
    products: int
    freezes: int
    balances: int
    sums: int
    produced: int
    unknown: Counter[str]


@dataclass
class _Call:
    """The first expert of a layer that ran: its inputs, and the part of the record that it made."""

    name: str
    before: _Mark
    outside: set[str]  # parameters touched before it ran
    after: _Mark | None = None
    touched: frozenset[str] = frozenset()
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None
    output: Any = None
    dims: tuple[tuple[int, ...], ...] = ()


class Siblings:
    """Observes listed experts during a trace and covers those that no token reached."""

    def __init__(
        self, expert_lists: Sequence[Sequence[str]], modules: Mapping[str, nn.Module], recorder: Recorder, copy: bool
    ) -> None:
        self.lists = expert_lists
        self.modules = modules
        self.recorder = recorder
        self.reached: set[str] = set()
        self.paths: dict[str, list[str]] = {}
        self.calls: list[_Call | None] = [None] * len(expert_lists)
        # Compared before any hook of the trace is there: hooks of the user make experts unlike.
        self.kinds = self._kinds() if copy else {}

    def _kinds(self) -> dict[str, nn.Module]:
        """For each listed expert, by path: the first expert of its list that is alike."""
        kinds: dict[str, nn.Module] = {}
        for names in self.lists:
            found: list[nn.Module] = []
            for name in names:
                module = self.modules[name]
                like = next((other for other in found if alike(other, module)), None)
                if like is None:
                    found.append(module)
                kinds[name] = like or module
        return kinds

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Context that records which experts run, and what the first one of each layer does."""
        experts = {id(self.modules[name]): (n, name) for n, names in enumerate(self.lists) for name in names}
        recorder = self.recorder

        def enter(module: nn.Module, _: Any) -> None:
            if id(module) in experts:
                number, name = experts[id(module)]
                self.reached.add(name)
                if self.calls[number] is None:
                    self.calls[number] = _Call(name, self._mark(), recorder.touched)
                    recorder.touched = set()

        def leave(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
            if id(module) in experts:
                number, name = experts[id(module)]
                call = self.calls[number]
                if call is not None and call.name == name and call.after is None:
                    self._end(call, args, kwargs, output)

        # Hooks for all modules: thousands of single ones would cost more than the forward of a small model.
        handles = [
            register_module_forward_pre_hook(enter),
            register_module_forward_hook(leave, with_kwargs=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _end(self, call: _Call, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        recorder = self.recorder
        call.after = self._mark()
        call.touched = frozenset(recorder.touched)
        recorder.touched |= call.outside
        call.args, call.kwargs, call.output = args, kwargs, output
        call.dims = tuple(recorder.dims_of(t) for t in leaves(output) if isinstance(t, torch.Tensor))

    def _mark(self) -> _Mark:
        record, relations = self.recorder, self.recorder.relations
        return _Mark(
            len(relations.sizes),
            len(relations.operations),
            len(relations.equals),
            len(relations.segments),
            len(relations.products),
            len(relations.freezes),
            len(relations.balances),
            len(relations.sums),
            record.produced,
            Counter(record.unknown),
        )

    def reach(self) -> None:
        """Cover every expert that did not run, layer by layer."""
        for names, call in zip(self.lists, self.calls, strict=True):
            if call is None or call.after is None:
                continue
            for name in names:
                if name in self.reached:
                    continue
                exchanged = self._exchanged(call.name, name)
                if exchanged is None:
                    self._run(call, name)
                else:
                    self._copy(call, name, exchanged)

    def _run(self, call: _Call, name: str) -> None:
        result = self.modules[name](*call.args, **(call.kwargs or {}))
        self.recorder.relations.operations.append(Operation("(sibling expert)", name))
        for mine, theirs in zip(leaves(result), leaves(call.output), strict=False):
            if isinstance(mine, torch.Tensor) and isinstance(theirs, torch.Tensor):
                self.recorder.relations.equal_all(self.recorder.dims_of(mine), self.recorder.dims_of(theirs))
                self.recorder.read(mine)

    def _exchanged(self, first: str, second: str) -> dict[int, int] | None:
        """Dimensions of the first expert's tensors → those of the second's; ``None`` if they are not alike."""
        if first not in self.kinds or self.kinds[first] is not self.kinds[second]:
            return None
        tensors, aliases = self.recorder.tensors, self.recorder.aliases
        result: dict[int, int] = {}
        if first not in self.paths:
            self.paths[first] = _tensor_paths(self.modules[first])
        for path in self.paths[first]:
            one, other = f"{first}.{path}", f"{second}.{path}"
            for a, b in zip(tensors[aliases.get(one, one)], tensors[aliases.get(other, other)], strict=True):
                if result.setdefault(a, b) != b:
                    return None  # tied in one of them only
        return result

    def _copy(self, call: _Call, name: str, exchanged: dict[int, int]) -> None:
        """Repeat the relations of the sibling's call for another expert."""
        record, relations, start, end = self.recorder, self.recorder.relations, call.before, call.after
        assert end is not None
        shift = len(relations.sizes) - start.sizes
        later = len(relations.operations) - start.operations

        def dim(number: int) -> int:
            return number + shift if start.sizes <= number < end.sizes else exchanged.get(number, number)

        def dims(numbers: Sequence[int]) -> tuple[int, ...]:
            return tuple(map(dim, numbers))

        relations.sizes += relations.sizes[start.sizes : end.sizes]
        numbers = range(start.operations, end.operations)
        relations.lines.update({n + later: line for n in numbers if (line := relations.lines.get(n))})
        for step in relations.operations[start.operations : end.operations]:
            inside = step.module == call.name or step.module.startswith(call.name + ".")
            module = name + step.module[len(call.name) :] if inside else step.module
            relations.operations.append(Operation(step.name, module))
        relations.equals += [(dim(a), dim(b), n + later) for a, b, n in relations.equals[start.equals : end.equals]]
        relations.segments += [
            replace(s, whole=dim(s.whole), part=dim(s.part), operation=s.operation + later)
            for s in relations.segments[start.segments : end.segments]
        ]
        relations.products += [
            replace(p, whole=dim(p.whole), factors=dims(p.factors), operation=p.operation + later)
            for p in relations.products[start.products : end.products]
        ]
        relations.freezes += [
            replace(f, dim=dim(f.dim), operation=f.operation + later)
            for f in relations.freezes[start.freezes : end.freezes]
        ]
        relations.sums += [(dim(a), dim(b), n + later) for a, b, n in relations.sums[start.sums : end.sums]]
        relations.balances += [dims(parts) for parts in relations.balances[start.balances : end.balances]]
        record.copies.append((start.produced, end.produced, dims))
        record.unknown += end.unknown - start.unknown
        length = len(call.name)
        for path in call.touched:
            mine = name + path[length:] if path.startswith(call.name + ".") else path
            record.touched.add(record.aliases.get(mine, mine))
        relations.operations.append(Operation("(sibling expert)", name))
        for theirs in call.dims:
            relations.equal_all(dims(theirs), theirs)


def _tensor_paths(module: nn.Module) -> list[str]:
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return [name for name, _ in named]
