"""Parameters that no forward used, coupled as those of a twin are.

A *twin* is another member of the same list with the same class and the same parameters. Examples: the shared expert
beside one that a library allocates and never calls, or an expert whose activation leaves a matrix out. What the trace
relates in the twin is stated of the unused parameter as well. Whether the member is ever used stays unknown: its
weights are cut, and no check approves what no input reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn

from moeverify.coupling.relations import Freeze, Operation, Relations, Trace
from moeverify.coupling.solving.union_find import UnionFind
from moeverify.models.expert_shapes import alike
from moeverify.models.model_tree import LISTS, ModelTree


def lists_of_twins(model: nn.Module) -> list[list[str]]:
    """Paths of the members of the lists of a model whose members are alike, each with two matrices or more."""
    tree = ModelTree.of(model)
    lists = (tree.children.get(path, ()) for path, module in tree.modules.items() if isinstance(module, LISTS))
    return [
        list(members)
        for members in lists
        if alike(tree, members, nested=True) and len({type(tree.modules[m]) for m in members}) == 1
    ]


def with_twins(traced: Trace, lists: Sequence[Sequence[str]]) -> Trace:
    """``traced`` with the relations of unused parameters that have a twin; the others stay unused."""
    relations = replace(
        traced.relations,
        equals=[*traced.relations.equals],
        freezes=[*traced.relations.freezes],
        operations=[*traced.relations.operations],
    )
    known = _Known(replace(traced, relations=relations))
    left = []
    for name in traced.untouched:
        stated = next((s for twins in _pairs(name, lists) if (s := known.of(name, *twins)) is not None), None)
        if stated is None:
            left.append(name)
            continue
        relations.operations.append(Operation("(unused, as its twin)", name))
        for dim, other in stated.equals:
            relations.equal(dim, other)
        for dim, freeze in stated.freezes:
            relations.freeze(dim, freeze.reason, freeze.operation)
    gone = frozenset(traced.untouched) - frozenset(left)
    return replace(traced, relations=relations, untouched=tuple(left), as_twins=gone)


def _pairs(name: str, lists: Sequence[Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Pairs of list members: the one that the parameter ``name`` lies in, and one of its twins. The innermost list
    comes first.
    """
    holding = ((members, m) for members in lists for m in members if name.startswith(f"{m}."))
    for members, mine in sorted(holding, key=lambda pair: -len(pair[1])):
        yield from ((mine, other) for other in members if other != mine)


@dataclass(frozen=True)
class _Stated:
    """Relations of an unused parameter: pairs of equal dimensions, and pairs of a dimension and what freezes it."""

    equals: list[tuple[int, int]]
    freezes: list[tuple[int, Freeze]]


class _Known:
    """Relations of a trace, indexed by parameter."""

    def __init__(self, traced: Trace) -> None:
        self.traced, relations = traced, traced.relations
        finder = UnionFind(relations)
        self.root = [finder.find(dim) for dim in range(len(relations.sizes))]
        self.unused = set(traced.untouched)
        self.owners: dict[int, list[tuple[str, int]]] = defaultdict(list)
        for name, dims in traced.tensors.items():
            for axis, dim in enumerate(dims):
                self.owners[self.root[dim]].append((name, axis))
        self.freezes = {self.root[freeze.dim]: freeze for freeze in relations.freezes}
        self.divided = _divided(relations, self.root)

    def of(self, name: str, mine: str, other: str) -> _Stated | None:
        """Relations of an unused parameter, taken from its twin.

        ``None`` if it has no twin of its shape, or if views divide the twin's dimension and nothing else is related to
        it.
        """
        model, tensors = other + name.removeprefix(mine), self.traced.tensors
        sizes = self.traced.relations.sizes
        if model not in tensors or model in self.unused:
            return None
        if [sizes[d] for d in tensors[model]] != [sizes[d] for d in tensors[name]]:
            return None
        stated = _Stated([], [])
        for axis, (dim, there) in enumerate(zip(tensors[name], tensors[model], strict=True)):
            root = self.root[there]
            if sizes[dim] == 1:
                continue
            if root in self.freezes:
                stated.freezes.append((dim, self.freezes[root]))
            elif partners := self._partners(root, (model, axis), mine, other):
                stated.equals.extend((dim, partner) for partner in partners)
            elif root in self.divided:
                return None
        return stated

    def _partners(self, root: int, place: tuple[str, int], mine: str, other: str) -> list[int]:
        """Dimensions that an unused one is related to: at most one inside the twin, and at most one outside of it."""
        tensors = self.traced.tensors
        within, outside = [], []
        for name, axis in self.owners[root]:
            if not name.startswith(f"{other}."):
                outside.append(tensors[name][axis])
            elif (name, axis) != place and (image := mine + name.removeprefix(other)) in tensors:
                within.append(tensors[image][axis])
        return [*within[:1], *outside[:1]]


def _divided(relations: Relations, root: list[int]) -> set[int]:
    """Roots of dimensions that a slice or a view divides, and of the parts and factors."""
    dims = [d for s in relations.segments for d in (s.whole, s.part)]
    dims += [d for p in relations.products for d in (p.whole, *p.factors)]
    return {root[d] for d in dims}
