"""Candidates for routed experts by shape: lists of modules that are all alike, parameters stacked by expert."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from moeverify.models.model_tree import LISTS, ModelTree
from moeverify.models.moe_layer import last, parent
from moeverify.models.scorers import chooses

_EXPERT = re.compile(r"expert", re.IGNORECASE)
_COUNT = re.compile(r"expert|(^|_)n_?exp(s|erts)?$", re.IGNORECASE)
_NO_COUNT = re.compile(r"per_tok|top_?k|shared|dim|hidden|size|group|capacity|select|active", re.IGNORECASE)
_ONE_AFTER_THE_OTHER = re.compile(
    r"^(layers?|blocks?|stages?|h|heads?|towers?|encoders?|decoders?|attns?)(_|$)|layers$"
)


def named_as_experts(tree: ModelTree, path: str) -> bool:
    """Whether a list, or a list around it, has a name with *expert* in it."""
    names = [last(path)]
    while (path := parent(path)) and isinstance(tree.modules[path], LISTS):
        names.append(last(path))
    return any(_EXPERT.search(name) for name in names) and not any(map(chooses, names))


def one_after_the_other(path: str) -> bool:
    """Whether a list is named as layers that run in turn, or as heads."""
    return bool(_ONE_AFTER_THE_OTHER.search(last(path)))


def alike(tree: ModelTree, members: Sequence[str], *, nested: bool = False) -> bool:
    """Whether modules have the same parameters, among them two matrices or kernels.

    ``nested``: they may hold lists of layers. Lists of modules that are alike in turn are no experts.
    """
    forms = {tree.shapes(member) for member in members}
    if len(members) < 2 or len(forms) != 1 or sum(len(shape) >= 2 for _, shape in next(iter(forms))) < 2:
        return False
    first = members[0]
    if isinstance(tree.modules[first], LISTS):
        return not _holds_alike(tree, first, nested=nested)
    return nested or not any(isinstance(m, nn.ModuleList) for m in tree.modules[first].modules())


def _holds_alike(tree: ModelTree, path: str, *, nested: bool) -> bool:
    """Whether a list, or a list of lists, holds modules that are alike."""
    members = tree.children.get(path, ())
    inner = (m for m in members if isinstance(tree.modules[m], LISTS))
    return alike(tree, members, nested=nested) or any(_holds_alike(tree, m, nested=nested) for m in inner)


def inner_lists(tree: ModelTree, path: str) -> tuple[str, ...]:
    """The inner lists of a list of lists of experts (clusters, tasks); empty if its members are experts themselves."""
    members = tree.children.get(path, ())
    if not isinstance(tree.modules[path], LISTS) or not members:
        return ()
    lists = all(isinstance(tree.modules[m], LISTS) and alike(tree, tree.children.get(m, ())) for m in members)
    return members if lists else ()


def parallel_lists(tree: ModelTree, path: str) -> tuple[tuple[str, ...], ...]:
    """Paths of experts that are spread over several lists in a module, expert by expert; empty if there are none.

    A list counts that holds one layer or one parameter for each expert, all of one shape. At least two of them hold
    matrices, and the outputs of one are the inputs of another. Example: ``w1[0]`` and ``w2[0]``, ``w1[1]`` and
    ``w2[1]``.
    """
    lists: dict[int, dict[tuple[str, ...], tuple[int, ...]]] = {}
    for child in tree.children.get(path, ()):
        entries = _entries(tree, child)
        forms = {tuple(shape for _, shape in form) for _, form in entries}
        if len(entries) < 2 or len(forms) != 1 or one_after_the_other(child):
            continue
        matrices = [shape[:2] for shape in forms.pop() if len(shape) >= 2]
        if len(matrices) < 2:
            lists.setdefault(len(entries), {})[tuple(entry for entry, _ in entries)] = (*matrices, ())[0]
    for _, found in sorted(lists.items(), reverse=True):
        sizes = [shape for paths, shape in found.items() if shape and not chooses(last(parent(paths[0])))]
        if any(set(a) == set(b) for n, a in enumerate(sizes) for b in sizes[:n]):
            # A list named like a router is the gate projection of gated experts if it has the shape of another one.
            kept = [paths for paths, shape in found.items() if shape in sizes or not chooses(last(parent(paths[0])))]
            return tuple(zip(*kept, strict=True))
    return ()


def _entries(tree: ModelTree, path: str) -> list[tuple[str, tuple[tuple[str, tuple[int, ...]], ...]]]:
    """Entries of a list with the names and shapes of their parameters."""
    if isinstance(tree.modules[path], nn.ParameterList):
        return [(name, (("", tuple(p.shape)),)) for name, p in tree.own(path).items()]
    if isinstance(tree.modules[path], nn.ModuleList):
        return [(child, tree.shapes(child)) for child in tree.children.get(path, ())]
    return []


def input_sizes(tree: ModelTree, expert: str) -> frozenset[int]:
    """Sizes that the layers of an expert read."""
    return frozenset(shape[1] for _, shape in tree.shapes(expert) if len(shape) >= 2)


@dataclass(frozen=True)
class Stacks:
    """Parameters ``[experts, ..., ...]`` of one module, and the evidence beside their shape."""

    parameters: dict[str, torch.Tensor]
    count: int
    evidence: str = ""

    @property
    def inputs(self) -> frozenset[int]:
        """Sizes of one expert's part."""
        return frozenset(size for p in self.parameters.values() for size in p.shape[1:])


def stacks_of(tree: ModelTree, path: str) -> Stacks | None:
    """Stacks of a module, or of small modules of the user's in it: at least two, all of one first size.

    ``None`` for attention, whose stacks hold heads, unless an attribute counts experts.
    """
    holders = [path, *(child for child in tree.children.get(path, ()) if not tree.of_torch(child))]
    own = {name: p for holder in holders for name, p in tree.own(holder).items() if name in tree.first_names}
    blocks = {name: p for name, p in own.items() if p.dim() == 3}
    sizes = {p.shape[0] for p in blocks.values()}
    if len(blocks) < 2 or len(sizes) != 1 or min(sizes) < 2:
        return None
    owners = {parent(name) for name in blocks}
    if path not in owners and (len(owners) == 1 or any(_whole(blocks, owner) for owner in owners)):
        return None  # the layer is such a module
    (count,) = sizes
    if _counted_second(tree, path, [tuple(p.shape) for p in blocks.values()], count):
        return None
    evidence = counts_experts(tree, path, count)
    attention = any(word in path.lower() for word in ("attn", "attention"))
    if not evidence and attention and not (evidence := _experts_of_heads(tree, path, count)):
        return None
    inner = {size for p in blocks.values() for size in p.shape[1:]}
    biases = {n: p for n, p in own.items() if p.dim() == 2 and p.shape[0] == count and p.shape[1] in inner}
    biases = {n: p for n, p in biases.items() if re.search(r"bias|^b(_?\d|_?\w+)?$", last(n))}
    return Stacks(blocks | biases, count, evidence)


def _whole(blocks: Mapping[str, torch.Tensor], owner: str) -> bool:
    """Whether a module holds experts by itself: of two of its stacks one reads what the other gives."""
    sizes = [set(p.shape[1:]) for name, p in blocks.items() if parent(name) == owner and min(p.shape[1:]) > 1]
    return any(a == b for n, a in enumerate(sizes) for b in sizes[:n])


def _counted_second(tree: ModelTree, path: str, shapes: Sequence[tuple[int, ...]], first: int) -> bool:
    """Whether attributes count the second dimension of all stacks as experts, and not the first one.

    Example: ``[inputs, experts, hidden]`` with ``n_experts`` of the second size.
    """
    (second, *others) = {shape[1] for shape in shapes}
    return not others and not counting_attribute(tree, path, first) and bool(counting_attribute(tree, path, second))


def counting_attribute(tree: ModelTree, path: str, count: int) -> str:
    """Evidence from an attribute of a module or its parent that counts experts, such as ``num_experts``; else empty."""
    for owner in (path, parent(path)) if path else (path,):
        for name, value in vars(tree.modules[owner]).items():
            if type(value) is int and value == count and _COUNT.search(name) and not _NO_COUNT.search(name):
                return f"{last(owner) or 'the model'}.{name} is {count}, as many as its parameters have"
    return ""


def counts_experts(tree: ModelTree, path: str, count: int) -> str:
    """Evidence from an attribute or a table of ids that there are so many experts; else empty."""
    return counting_attribute(tree, path, count) or _table_of_ids(tree, path, count)


def _experts_of_heads(tree: ModelTree, path: str, count: int) -> str:
    """Evidence of experts for each head: an attribute counts those of a head, a layer scores those of all heads."""
    scored = [
        last(child)
        for child in tree.children.get(path, ())
        if isinstance(layer := tree.modules[child], nn.Linear) and layer.out_features == count != layer.in_features
    ]
    for each in range(2, count // 2 + 1) if scored else ():
        if count % each == 0 and (evidence := counting_attribute(tree, path, each)):
            return f"{evidence.partition(',')[0]}, for each of {count // each} heads; {scored[0]} scores them all"
    return ""


def _table_of_ids(tree: ModelTree, path: str, count: int) -> str:
    """Evidence from a table of expert ids: an integer buffer in which every id below ``count`` occurs.

    Empty if there is none. Example: hash routing, which looks up the expert of a token id.
    """
    for name, table in tree.modules[path]._buffers.items():
        if table is None or table.is_meta or table.is_floating_point() or table.dtype is torch.bool:
            continue
        if table.numel() > count and table.unique().tolist() == list(range(count)):
            return f"{name} holds the numbers of {count} experts"
    return ""


def same_matrices(tree: ModelTree, parameters: Sequence[str]) -> bool:
    """Whether parameters have one shape, and the linear layers of an ordinary MLP are not among them."""
    owners = [tree.modules[parent(n)] for n in parameters]
    shapes = {tuple(o.get_parameter(last(n)).shape) for o, n in zip(owners, parameters, strict=True)}
    return len(shapes) == 1 and not any(isinstance(owner, nn.Linear) for owner in owners)


def held_text(tree: ModelTree, path: str) -> str:
    """What a module holds, in words: lists of parameters, or its first two parameters with their shapes."""
    lists = [n for n in tree.children.get(path, ()) if isinstance(tree.modules[n], nn.ParameterList)]
    if lists:
        return f"lists of parameters ({last(lists[0])}, ...)"
    own = list(tree.own(path).items())
    return ", ".join(f"{last(leaf)} {list(tensor.shape)}" for leaf, tensor in own[:2]) or "something else"
