"""Removal commutes with an operation: the property that proves a rule, sharing no code with it.

A rule states relations between the dimensions of one executed operation. The solver turns them into units that can
only be removed together. Removing a unit's positions from the inputs and then running the operation must give what
running the operation and then removing the unit's positions from the outputs gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from moeverify.coupling.relations import Operation, Relations, Trace
from moeverify.coupling.rules import Call, rule_for
from moeverify.coupling.solving.solve import solve

Removed = Mapping[tuple[str, int], Sequence[int]]


@dataclass(frozen=True, eq=False)
class OneCall:
    """One operation with its arguments, as the dispatcher hands it to a trace."""

    name: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def tags(self) -> list[torch.Tag]:
        """PyTorch's tags of the operation."""
        return list(getattr(self.func, "tags", ()))

    @property
    def inputs(self) -> list[torch.Tensor]:
        """The distinct tensors among the arguments, in order."""
        leaves = tree_leaves((self.args, dict(self.kwargs)))
        return list({id(t): t for t in leaves if isinstance(t, torch.Tensor)}.values())

    def with_inputs(self, change: Callable[[int, torch.Tensor], torch.Tensor]) -> OneCall:
        """The same call on changed copies: ``change(number, tensor)`` for each distinct input, which stays distinct."""
        new = {id(t): change(number, t.detach().clone()) for number, t in enumerate(self.inputs)}

        def swap(value: Any) -> Any:
            return new[id(value)] if isinstance(value, torch.Tensor) else value

        return OneCall(self.name, self.func, tree_map(swap, self.args), tree_map(swap, dict(self.kwargs)))

    def run(self) -> Any:
        """Run the operation on copies of its inputs."""
        fresh = self.with_inputs(lambda _, tensor: tensor)
        with torch.no_grad():
            return fresh.func(*fresh.args, **fresh.kwargs)

    def __repr__(self) -> str:
        def short(value: Any) -> Any:
            return f"<{value.dtype} {list(value.shape)}>" if isinstance(value, torch.Tensor) else value

        return f"{self.name}(*{tree_map(short, self.args)}, **{tree_map(short, dict(self.kwargs))})"


class Recording(TorchDispatchMode):
    """Keeps every operation that runs, on copies of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[OneCall] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = f"{func.namespace}.{func._schema.name.split('::')[1]}"
        self.keep(OneCall(name, func, tuple(args), dict(kwargs or {})))
        return func(*args, **(kwargs or {}))

    def keep(self, call: OneCall) -> None:
        """Take a call down before it runs."""
        self.calls.append(call.with_inputs(lambda _, tensor: tensor))


def one_call(name: str, *args: Any, **kwargs: Any) -> OneCall:
    """``name`` called with these arguments, in the form in which the dispatcher shows it.

    An operation that the dispatcher takes apart (``aten.linear`` on some paths) stays as it was called.
    """
    namespace, _, packet = name.partition(".")
    func = getattr(getattr(torch.ops, namespace), packet)
    with torch.no_grad(), Recording() as recording:
        call = OneCall(name, func, args, kwargs).with_inputs(lambda _, tensor: tensor)
        func(*call.args, **call.kwargs)
    seen = [call for call in recording.calls if call.name == name]
    return seen[0] if seen else OneCall(name, func, args, kwargs)


@dataclass(eq=False)
class Stated:
    """What the rule of a call states, with the dimensions of ``input0`` ..., ``output0`` ..."""

    call: OneCall
    relations: Relations
    tensors: dict[str, tuple[int, ...]]
    result: Any

    def solve(self) -> tuple[tuple, tuple]:
        """Coupling classes and frozen dimensions over the call's inputs and outputs."""
        return solve(Trace(self.relations, self.tensors, {}, frozenset(), {}, ()))


def state(call: OneCall, relations: Relations | None = None) -> Stated:
    """Run the call and let its rule speak; ``relations`` is filled if given.

    Raises ``LookupError`` for an operation without a rule.
    """
    rule = rule_for(call.name, call.tags)
    if rule is None:
        raise LookupError(f"no rule for {call.name}")
    relations = relations if relations is not None else Relations()
    fresh = call.with_inputs(lambda _, tensor: tensor)
    known: dict[int, tuple[int, ...]] = {}
    tensors: dict[str, tuple[int, ...]] = {}
    for number, tensor in enumerate(fresh.inputs):
        tensors[f"input{number}"] = known[id(tensor)] = relations.new_dims(tensor.shape)
    with torch.no_grad():
        result = fresh.func(*fresh.args, **fresh.kwargs)
    outputs = tuple(leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
    for number, tensor in enumerate(outputs):
        if id(tensor) not in known:
            known[id(tensor)] = relations.new_dims(tensor.shape)
        tensors[f"output{number}"] = known[id(tensor)]
    relations.operations.append(Operation(call.name, ""))
    seen = Call(call.name, tuple(fresh.args), dict(fresh.kwargs), outputs, lambda tensor: known[id(tensor)])
    rule(seen, relations)
    return Stated(call, relations, tensors, result)


def removals(stated: Stated) -> Iterator[Removed]:
    """Sets of positions to remove: single units of each class, several of one, and some of every class at once."""
    classes, _ = stated.solve()
    several: dict[tuple[str, int], list[int]] = {}
    for coupling in classes:
        units = list(range(coupling.size))
        if len(units) < 2:
            continue  # nothing would be left
        picks = [[0], [units[-1]], [units[len(units) // 2]]]
        if len(units) > 3:
            picks.append(units[1::2])
        for pick in [p for i, p in enumerate(picks) if p not in picks[:i]]:
            chosen = {(m.parameter, m.dim): m.positions[pick].ravel().tolist() for m in coupling.members}
            yield chosen
        for key, positions in chosen.items():
            several.setdefault(key, []).extend(positions)
    if len(classes) > 1 and several:
        yield several


def cut(tensor: torch.Tensor, name: str, removed: Removed) -> torch.Tensor:
    """``tensor`` without the positions that ``removed`` names for it."""
    for (owner, dim), positions in removed.items():
        if owner == name:
            gone = set(positions)
            keep = [p for p in range(tensor.shape[dim]) if p not in gone]
            tensor = tensor.index_select(dim, torch.tensor(keep, dtype=torch.long))
    return tensor


def cut_result(result: Any, removed: Removed) -> Any:
    """Every output tensor without its removed positions."""
    numbers = iter(range(1_000_000))

    def one(leaf: Any) -> Any:
        return cut(leaf, f"output{next(numbers)}", removed) if isinstance(leaf, torch.Tensor) else leaf

    return tree_map(one, result)


def difference(actual: Any, expected: Any, *, values: bool = True) -> str | None:
    """What distinguishes two results, or ``None``; without ``values`` only shapes count."""
    left, right = tree_leaves(actual), tree_leaves(expected)
    if len(left) != len(right):
        return f"{len(left)} outputs instead of {len(right)}"
    for number, (a, b) in enumerate(zip(left, right, strict=True)):
        if not isinstance(a, torch.Tensor):
            if a != b:
                return f"output {number} is {a} instead of {b}"
            continue
        if a.shape != b.shape:
            return f"output {number} has shape {list(a.shape)} instead of {list(b.shape)}"
        if a.dtype != b.dtype:
            return f"output {number} has type {a.dtype} instead of {b.dtype}"
        exact = a.dtype in (torch.float64, torch.complex128) or not (a.is_floating_point() or a.is_complex())
        if values and not torch.allclose(a, b, rtol=1e-9 if exact else 1e-5, atol=1e-10, equal_nan=True):
            return f"output {number} differs in value"
    return None
