"""Routers known by their shape: a linear layer with one output for each expert that reads what the experts read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

Modules = Mapping[str, nn.Module]
Children = Mapping[str, Sequence[str]]


def own_stacks(modules: Modules, children: Children, name: str) -> dict[str, torch.Tensor]:
    """Parameters ``[experts, ..., ...]`` of a module, or of small modules of the user's in it, all of one first size.

    Empty unless there are two; attention keeps heads so, which are no experts.
    """
    if any(word in name.lower() for word in ("attn", "attention")):
        return {}
    holders = [name, *(n for n in children.get(name, ()) if not type(modules[n]).__module__.startswith("torch."))]
    found: dict[str, torch.Tensor] = {
        f"{holder}.{leaf}": p
        for holder in holders
        for leaf, p in modules[holder]._parameters.items()
        if p is not None and p.dim() == 3
    }
    sizes = {p.shape[0] for p in found.values()}
    return found if len(found) > 1 and len(sizes) == 1 and min(sizes) > 1 else {}


def scorers_of_stacks(modules: Modules, children: Children, name: str, stacks: Mapping[str, torch.Tensor]) -> tuple:
    """The routers of experts in ``stacks`` of the module ``name``: in that module, else in the one around it."""
    count = next(iter(stacks.values())).shape[0]
    inputs = {size for p in stacks.values() for size in p.shape[1:]}
    for around in dict.fromkeys((name, name.rpartition(".")[0])):
        near = [c for child in children.get(around, ()) for c in (child, *children.get(child, ()))]
        if found := _scorers(modules, near, {count}, inputs):
            return found
    return ()


def scorers_of_nested_list(modules: Modules, children: Children, name: str, inputs: set[int]) -> tuple[str, ...]:
    """The routers of the experts in a list that lies in a list of such lists (clusters, tasks).

    They stand beside the outer list, one for each inner list or one for all; they may choose among the experts of
    another list beside it as well, which all tasks share.
    """
    outer, _, index = name.rpartition(".")
    around = outer.rpartition(".")[0]
    if not isinstance(modules.get(outer), nn.ModuleList) or not outer:
        return ()
    beside = [n for n in children.get(around, ()) if n != outer]
    lists = [n for n in beside if isinstance(modules[n], nn.ModuleList)]
    count = len(children.get(name, ()))
    counts = {count, *(count + len(children.get(n, ())) for n in lists)}
    for group in lists:
        found = _scorers(modules, [f"{group}.{index}"], counts, inputs)
        if found and len(children[group]) == len(children[outer]):
            return found
    return _scorers(modules, beside, counts, inputs)


def _scorers(modules: Modules, names: Iterable[str], counts: set[int], inputs: set[int]) -> tuple[str, ...]:
    linears = {n: m for n in names if isinstance(m := modules.get(n), nn.Linear)}
    return tuple(n for n, m in linears.items() if m.out_features in counts and m.in_features in inputs)
