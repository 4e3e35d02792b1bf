"""Rows chosen by data: the indexed dimension is frozen, the others go through."""

import torch

from moeverify.coupling.dims import Relations
from moeverify.coupling.rules.registry import Call, normalise, rule

BY_DATA = "positions are chosen by data"


@rule("aten.embedding")
def embedding(call: Call, relations: Relations) -> None:
    """``[rows, n], [...] -> [..., n]``."""
    weight, index, out = call.dims(0), call.dims(1), call.out
    relations.freeze(weight[0], "rows of an embedding are chosen by data")
    relations.equal(weight[1], out[-1])
    relations.equal_all(index, out[:-1])


@rule("aten.index")
def index(call: Call, relations: Relations) -> None:
    """Advanced indexing, numpy's rules: adjacent indices stay in place, separated ones move to the front."""
    source, out = call.dims(0), call.out
    indices = call.args[1]
    places = [i for i, t in enumerate(indices) if t is not None]
    rank = max(indices[i].dim() for i in places)
    if any(indices[i].dtype is torch.bool for i in places):
        relations.freeze_all((*source, *out), "positions are chosen by a mask")
        return
    adjacent = places == list(range(places[0], places[-1] + 1))
    start = places[0] if adjacent else 0
    for place in places:
        relations.freeze(source[place], BY_DATA)
        relations.equal_all(call.dims_of(indices[place]), out[start : start + rank])
    rest_in = [d for i, d in enumerate(source) if i not in places]
    rest_out = [d for i, d in enumerate(out) if not start <= i < start + rank]
    for a, b in zip(rest_in, rest_out, strict=True):
        relations.equal(a, b)


@rule("aten.index_put", "aten.index_put_")
def index_put(call: Call, relations: Relations) -> None:
    """``x[indices] = values``: as ``index`` read backwards; a mask leaves the dimensions it does not cover alone."""
    target, values = call.dims(0), call.dims(2)
    relations.equal_all(target, call.out)
    places = [i for i, t in enumerate(call.args[1]) if t is not None]
    covered = sum(call.args[1][i].dim() if call.args[1][i].dtype is torch.bool else 1 for i in places)
    if places != list(range(len(places))):
        relations.freeze_all((*target, *values), BY_DATA)
        return
    relations.freeze_all(target[:covered], BY_DATA)
    rest = target[covered:]
    relations.equal_all(rest, values[max(len(values) - len(rest), 0) :])


@rule("aten.index_select")
def index_select(call: Call, relations: Relations) -> None:
    """One dimension by a list of positions."""
    source, out = call.dims(0), call.out
    dim = normalise(call.args[1], len(source))
    for position, (a, b) in enumerate(zip(source, out, strict=True)):
        if position == dim:
            relations.freeze_all((a, b), BY_DATA)
        else:
            relations.equal(a, b)


@rule("aten.index_add", "aten.index_add_", "aten.index_copy", "aten.index_copy_")
def index_add(call: Call, relations: Relations) -> None:
    """``self[index] += source`` along one dimension."""
    target, addend = call.dims(0), call.dims_of(call.args[3])
    dim = normalise(call.args[1], len(target))
    relations.equal_all(target, call.out)
    for position, (a, b) in enumerate(zip(target, addend, strict=True)):
        if position == dim:
            relations.freeze_all((a, b), BY_DATA)
        else:
            relations.equal(a, b)


@rule("aten.gather")
def gather(call: Call, relations: Relations) -> None:
    """``out[i][j] = source[i][index[i][j]]``: the gathered dimension is frozen."""
    source, chosen, out = call.dims(0), call.dims(2), call.out
    dim = normalise(call.args[1], len(source))
    for position, (a, b, c) in enumerate(zip(source, chosen, out, strict=True)):
        relations.equal(b, c)
        if position == dim:
            relations.freeze_all((a, c), BY_DATA)
        elif relations.sizes[a] == relations.sizes[c]:
            relations.equal(a, c)
        else:
            relations.freeze_all((a, c), BY_DATA)


@rule("aten.scatter", "aten.scatter_", "aten.scatter_add", "aten.scatter_add_")
def scatter(call: Call, relations: Relations) -> None:
    """Writes at positions given by data; the result has the target's shape."""
    target = call.dims(0)
    dim = normalise(call.args[1], len(target))
    relations.equal_all(target, call.out)
    relations.freeze(target[dim], BY_DATA)
    for tensor in call.tensors()[1:]:
        for position, (a, b) in enumerate(zip(call.dims_of(tensor), target, strict=True)):
            if position == dim or relations.sizes[a] != relations.sizes[b]:
                relations.freeze_all((a, b), BY_DATA)
            else:
                relations.equal(a, b)


@rule(
    "aten.nonzero",
    "aten.topk",
    "aten.sort",
    "aten.argsort",
    "aten.argmax",
    "aten.aminmax",
    "aten.histc",
    "aten.bincount",
)
def chosen(call: Call, relations: Relations) -> None:
    """Order statistics along a dimension; ``nonzero`` and counts along all of them."""
    source = call.dims(0)
    along = {"aten.topk": (2, -1), "aten.sort": (1, -1), "aten.argsort": (1, -1)}.get(call.name)
    if along is None:
        relations.freeze_all(source, BY_DATA)
        for output in call.outputs:
            relations.freeze_all(call.dims_of(output), BY_DATA)
        return
    dim = normalise(call.arg(along[0], "dim", along[1]), len(source))
    for output in call.outputs:
        for position, (a, b) in enumerate(zip(source, call.dims_of(output), strict=True)):
            if position == dim:
                relations.freeze_all((a, b), BY_DATA)
            else:
                relations.equal(a, b)
