"""Views and rearrangements: reshape, permute, slice, split, concatenate."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from moeverify.coupling.relations import Relations
from moeverify.coupling.rules.registry import Call, normalise, rule

COPIES = "the number of copies is fixed in the program"
EMPTY = "view of an empty tensor"


@rule("aten.view", "aten._unsafe_view", "aten.reshape", "aten._reshape_alias")
def view(call: Call, relations: Relations) -> None:
    """Row-major regrouping: the shortest runs of dimensions with equal products correspond."""
    if isinstance(call.args[1], list | tuple):
        regroup(call.dims(0), call.out, relations)
    else:  # view.dtype reinterprets the elements
        relations.freeze_all((*call.dims(0), *call.out), "elements are reinterpreted as another type")


def regroup(source: Sequence[int], target: Sequence[int], relations: Relations) -> None:
    """Relate the dimensions of a tensor and of its row-major view.

    Dimensions of size 1 (and empty ones) carry no position and are passed over.
    """
    left = [d for d in source if relations.sizes[d] > 1]
    right = [d for d in target if relations.sizes[d] > 1]
    while left and right:
        a, b = [left.pop(0)], [right.pop(0)]
        while (x := prod(relations.sizes[d] for d in a)) != (y := prod(relations.sizes[d] for d in b)):
            side, rest = (a, left) if x < y else (b, right)
            if not rest:
                relations.freeze_all((*a, *b, *left, *right), EMPTY)
                return
            side.append(rest.pop(0))
        if len(b) == 1:
            relations.product(b[0], a)
        elif len(a) == 1:
            relations.product(a[0], b)
        else:
            (flat,) = relations.new_dims([x])
            relations.product(flat, a)
            relations.product(flat, b)
    relations.freeze_all((*left, *right), EMPTY)


@rule("aten.t", "aten.transpose", "aten.permute")
def permute(call: Call, relations: Relations) -> None:
    """The same dimensions in another order."""
    source, out = call.dims(0), call.out
    if call.name == "aten.permute":
        order = [normalise(d, len(source)) for d in call.args[1]]
    else:
        order = list(range(len(source)))
        if call.name == "aten.transpose":
            i, j = (normalise(d, len(source)) for d in call.args[1:3])
            order[i], order[j] = order[j], order[i]
        else:
            order.reverse()
    for position, original in enumerate(order):
        relations.equal(source[original], out[position])


@rule("aten.unsqueeze", "aten.squeeze")
def singleton(call: Call, relations: Relations) -> None:
    """Dimensions of size 1 come or go; the others keep their order."""
    left = [d for d in call.dims(0) if relations.sizes[d] != 1]
    right = [d for d in call.out if relations.sizes[d] != 1]
    for a, b in zip(left, right, strict=True):
        relations.equal(a, b)


@rule("aten.as_strided_")
def restride(call: Call, relations: Relations) -> None:
    """Strides set in place, as pooling does for dimensions of size 1; the dimensions stay the same.

    If shape or order changed, the recorder freezes the tensor when its dimensions are next looked up.
    """
    call.dims(0)


@rule("aten.expand")
def expand(call: Call, relations: Relations) -> None:
    """Broadcast dimensions are new and free: every position holds the same values."""
    relations.equal_all(call.dims(0), call.out)


@rule("aten.slice")
def slice_(call: Call, relations: Relations) -> None:
    """``x[start:end:step]`` along one dimension."""
    _slice(call, call.dims(0), call.out, 1, relations)


@rule("aten.slice_scatter")
def slice_scatter(call: Call, relations: Relations) -> None:
    """A copy of the first tensor whose slice is the second."""
    relations.equal_all(call.dims(0), call.out)
    _slice(call, call.out, call.dims(1), 2, relations)


def _slice(call: Call, whole: Sequence[int], part: Sequence[int], first: int, relations: Relations) -> None:
    """Relate a tensor and its slice; ``first`` is where ``dim, start, end, step`` begin in the schema.

    With a step only whole periods can be removed, since removing one position would shift those behind it. Example:
    ``x[..., ::2]`` of interleaved gate and up.
    """
    dim = normalise(call.arg(first, "dim", 0), len(whole))
    size = relations.sizes[whole[dim]]
    start, _, step = slice(*(call.arg(first + i, n) for i, n in enumerate(("start", "end", "step"), 1))).indices(size)
    for position, (a, b) in enumerate(zip(whole, part, strict=True)):
        if position != dim:
            relations.equal(a, b)
        elif step == 1:
            relations.segment(a, b, start)
        elif start < step and size == step * relations.sizes[b]:
            period, phase = relations.new_dims([relations.sizes[b], step])
            relations.freeze(phase, "the phase of a slice with a step")
            relations.product(a, (period, phase))
            relations.equal(period, b)
        else:
            relations.freeze_all((a, b), "a slice with a step that does not divide the dimension")


@rule("aten.select")
def select(call: Call, relations: Relations) -> None:
    """One position is taken by number, so positions of that dimension must stay where they are."""
    source = call.dims(0)
    dim = normalise(call.args[1], len(source))
    relations.freeze(source[dim], "a position is selected by number")
    for a, b in zip((d for i, d in enumerate(source) if i != dim), call.out, strict=True):
        relations.equal(a, b)


@rule("aten.select_scatter")
def select_scatter(call: Call, relations: Relations) -> None:
    """A copy of the first tensor whose position ``index`` is the second."""
    source = call.dims(0)
    dim = normalise(call.args[2], len(source))
    relations.equal_all(source, call.out)
    relations.freeze(source[dim], "a position is selected by number")
    for a, b in zip((d for i, d in enumerate(source) if i != dim), call.dims(1), strict=True):
        relations.equal(a, b)


@rule("aten.unbind")
def unbind(call: Call, relations: Relations) -> None:
    """Every position becomes a tensor of its own."""
    source = call.dims(0)
    dim = normalise(call.arg(1, "dim", 0), len(source))
    relations.freeze(source[dim], "each position becomes a tensor of its own")
    rest = [d for i, d in enumerate(source) if i != dim]
    for output in call.outputs:
        for a, b in zip(rest, call.dims_of(output), strict=True):
            relations.equal(a, b)


@rule("aten.split", "aten.split_with_sizes", "aten.chunk", "aten.unsafe_split", "aten.unsafe_split_with_sizes")
def split(call: Call, relations: Relations) -> None:
    """Consecutive parts; parts of equal size must stay of equal size (``chunk(2)`` after pruning)."""
    source = call.dims(0)
    dim = normalise(call.arg(2, "dim", 0), len(source))
    start = 0
    parts = []
    for output in call.outputs:
        out = call.dims_of(output)
        for position, (a, b) in enumerate(zip(source, out, strict=True)):
            if position == dim:
                relations.segment(a, b, start)
                start += relations.sizes[b]
                parts.append(b)
            else:
                relations.equal(a, b)
    if not call.name.endswith("_with_sizes") and len(parts) > 1:
        relations.balances.append(tuple(parts))


@rule("aten.cat")
def cat(call: Call, relations: Relations) -> None:
    """Consecutive parts of the output."""
    out = call.out
    dim = normalise(call.arg(1, "dim", 0), len(out))
    start = 0
    for tensor in call.args[0]:
        part = call.dims_of(tensor)
        if len(part) != len(out):  # legacy: empty one-dimensional tensors are ignored
            continue
        for position, (a, b) in enumerate(zip(part, out, strict=True)):
            if position == dim:
                relations.segment(b, a, start)
                start += relations.sizes[a]
            else:
                relations.equal(a, b)


@rule("aten.stack")
def stack(call: Call, relations: Relations) -> None:
    """A new dimension whose positions are the inputs."""
    out = call.out
    dim = normalise(call.arg(1, "dim", 0), len(out))
    relations.freeze(out[dim], "each position is a tensor of its own")
    rest = [d for i, d in enumerate(out) if i != dim]
    for tensor in call.args[0]:
        for a, b in zip(call.dims_of(tensor), rest, strict=True):
            relations.equal(a, b)


@rule("aten.repeat")
def repeat(call: Call, relations: Relations) -> None:
    """Each output dimension is the product (copy, position). Copies are frozen: the program fixes their number."""
    source, out, counts = call.dims(0), call.out, call.args[1]
    lead = len(out) - len(source)
    relations.freeze_all(out[:lead], COPIES)
    for position, target in enumerate(out[lead:]):
        count = counts[lead + position]
        if count == 1:
            relations.equal(source[position], target)
        elif relations.sizes[source[position]] > 1:
            (copies,) = relations.new_dims([count])
            relations.freeze(copies, COPIES)
            relations.product(target, (copies, source[position]))
