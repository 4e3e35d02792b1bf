"""Rows chosen by data: the indexed dimension is frozen, the others go through."""

from collections.abc import Sequence

import torch

from moeverify.coupling.relations import Relations
from moeverify.coupling.rules.registry import Call, normalise, rule

BY_DATA = "positions are chosen by data"


@rule("aten.embedding")
def embedding(call: Call, relations: Relations) -> None:
    """``[rows, n], [...] -> [..., n]``."""
    weight, index, out = call.dims(0), call.dims(1), call.out
    relations.freeze(weight[0], "rows of an embedding are chosen by data")
    relations.equal(weight[1], out[-1])
    relations.equal_all(index, out[:-1])


@rule("aten._embedding_bag", "aten._embedding_bag_forward_only")
def embedding_bag(call: Call, relations: Relations) -> None:
    """``[rows, n], [places], [bags] -> [bags, n]``: rows of each bag are summed, averaged or compared."""
    weight = call.dims(0)
    relations.freeze(weight[0], "rows of an embedding are chosen by data")
    for tensor in call.tensors()[1:]:
        relations.freeze_all(call.dims_of(tensor), BY_DATA)
    for tensor in call.outputs:
        bags, *columns = call.dims_of(tensor)
        relations.freeze(bags, BY_DATA)
        for column in columns:  # of the result, and of the places of the largest values
            relations.equal(weight[1], column)


def _indexed(source: Sequence[int], indices: Sequence[torch.Tensor | None]) -> list[int | None]:
    """Dimensions of ``source[indices]``: one of the source's, or ``None`` where the indices decide.

    Numpy's rules: a mask covers as many dimensions as it has and counts as one index. Adjacent indices stay in place.
    Separated ones move to the front.
    """
    result: list[int | None] = []
    places: list[int] = []
    at = rank = 0
    for index in indices:
        if index is None:
            result.append(source[at])
            at += 1
        else:
            places.append(len(result))
            mask = index.dtype in (torch.bool, torch.uint8)
            at += index.dim() if mask else 1
            rank = max(rank, 1 if mask else index.dim())
    result += source[at:]
    adjacent = len(set(places)) == 1
    start = places[0] if adjacent else 0
    return [*result[:start], *[None] * rank, *result[start:]]


def _freeze_indices(call: Call, indices: Sequence[torch.Tensor | None], relations: Relations) -> None:
    """Freeze what the indices choose from, and masks."""
    at = 0
    source = call.dims(0)
    for index in indices:
        if index is None:
            at += 1
        elif index.dtype in (torch.bool, torch.uint8):
            relations.freeze_all(
                (*source[at : at + index.dim()], *call.dims_of(index)), "positions are chosen by a mask"
            )
            at += index.dim()
        else:
            relations.freeze(source[at], BY_DATA)
            at += 1


@rule("aten.index", "aten._unsafe_index")
def index(call: Call, relations: Relations) -> None:
    """``x[indices]``: what is not indexed goes through."""
    indices = call.args[1]
    _freeze_indices(call, indices, relations)
    chosen = []
    for a, b in zip(_indexed(call.dims(0), indices), call.out, strict=True):
        if a is None:
            chosen.append(b)
        else:
            relations.equal(a, b)
    for tensor in indices:
        if tensor is None:
            continue
        if tensor.dtype in (torch.bool, torch.uint8):
            relations.freeze_all(chosen, "positions are chosen by a mask")
        else:
            relations.equal_all(call.dims_of(tensor), chosen)


@rule("aten.index_put", "aten.index_put_", "aten._index_put_impl_", "aten._unsafe_index_put")
def index_put(call: Call, relations: Relations) -> None:
    """``x[indices] = values``: ``index`` read backwards, values broadcast."""
    target, values, indices = call.dims(0), call.dims(2), call.args[1]
    relations.equal_all(target, call.out)
    _freeze_indices(call, indices, relations)
    for tensor in indices:
        if tensor is not None:
            relations.freeze_all(call.dims_of(tensor), BY_DATA)
    for a, b in zip(reversed(_indexed(target, indices)), reversed(values), strict=False):
        if a is None:
            relations.freeze(b, BY_DATA)
        elif relations.sizes[b] > 1:
            relations.equal(a, b)


@rule("aten.index_select")
def index_select(call: Call, relations: Relations) -> None:
    """One dimension by a list of positions."""
    source, chosen, out = call.dims(0), call.dims(2), call.out
    dim = normalise(call.args[1], len(source))
    for position, (a, b) in enumerate(zip(source, out, strict=True)):
        if position == dim:
            relations.freeze(a, BY_DATA)
            relations.equal_all(chosen, (b,))
        else:
            relations.equal(a, b)


@rule(
    "aten.index_add",
    "aten.index_add_",
    "aten.index_copy",
    "aten.index_copy_",
    "aten.index_reduce",
    "aten.index_reduce_",
)
def index_add(call: Call, relations: Relations) -> None:
    """``self[index] += source`` along one dimension."""
    target, index, addend = call.dims(0), call.dims(2), call.dims(3)
    dim = normalise(call.args[1], len(target))
    relations.equal_all(target, call.out)
    relations.freeze_all(index, BY_DATA)
    for position, (a, b) in enumerate(zip(target, addend, strict=True)):
        if position == dim:
            relations.freeze_all((a, b), BY_DATA)
        else:
            relations.equal(a, b)


@rule("aten.index_fill", "aten.index_fill_")
def index_fill(call: Call, relations: Relations) -> None:
    """``self[index] = value`` along one dimension."""
    target = call.dims(0)
    relations.equal_all(target, call.out)
    relations.freeze_all((target[normalise(call.args[1], len(target))], *call.dims(2)), BY_DATA)


@rule(
    "aten.masked_select",
    "aten.masked_scatter",
    "aten.masked_scatter_",
    "aten.take",
    "aten.put",
    "aten.repeat_interleave",
    "aten.searchsorted",
    "aten.bucketize",
    "aten.nonzero",
    "aten.nonzero_static",
    "aten.histc",
    "aten.bincount",
    "aten._unique2",
    "aten.unique_dim",
    "aten.unique_consecutive",
)
def by_data(call: Call, relations: Relations) -> None:
    """Every element can matter to every other."""
    for tensor in (*call.tensors(), *call.outputs):
        relations.freeze_all(call.dims_of(tensor), BY_DATA)


@rule("aten.gather")
def gather(call: Call, relations: Relations) -> None:
    """``out[i][j] = source[i][index[i][j]]``: the gathered dimension is frozen."""
    source, chosen, out = call.dims(0), call.dims(2), call.out
    if len(source) != len(chosen):  # nothing is gathered, or a scalar
        relations.freeze_all((*source, *chosen, *out), BY_DATA)
        return
    dim = normalise(call.args[1], len(source))
    for position, (a, b, c) in enumerate(zip(source, chosen, out, strict=True)):
        relations.equal(b, c)
        if position == dim:
            relations.freeze_all((a, c), BY_DATA)
        elif relations.sizes[a] == relations.sizes[c]:
            relations.equal(a, c)
        else:
            relations.freeze_all((a, c), BY_DATA)


@rule(
    "aten.scatter",
    "aten.scatter_",
    "aten.scatter_add",
    "aten.scatter_add_",
    "aten.scatter_reduce",
    "aten.scatter_reduce_",
)
def scatter(call: Call, relations: Relations) -> None:
    """Writes at positions given by data; the result has the target's shape."""
    target = call.dims(0)
    dim = normalise(call.args[1], len(target)) if target else 0
    relations.equal_all(target, call.out)
    for tensor in call.tensors()[1:]:
        dims = call.dims_of(tensor)
        if len(dims) != len(target):  # nothing is scattered, or a scalar
            continue
        for position, (a, b) in enumerate(zip(dims, target, strict=True)):
            if position == dim or relations.sizes[a] != relations.sizes[b]:
                relations.freeze_all((a, b), BY_DATA)
            else:
                relations.equal(a, b)


@rule("aten.topk", "aten.sort", "aten.argsort")
def chosen(call: Call, relations: Relations) -> None:
    """Order statistics along one dimension, by default the last."""
    source = call.dims(0)
    if not source:
        return
    dim = normalise(call.arg(2 if call.name == "aten.topk" else 1, "dim", -1), len(source))
    for output in call.outputs:
        for position, (a, b) in enumerate(zip(source, call.dims_of(output), strict=True)):
            if position == dim:
                relations.freeze_all((a, b), BY_DATA)
            else:
                relations.equal(a, b)
