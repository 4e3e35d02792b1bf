"""Rows chosen by data."""

import torch

from tests.moeverify.coupling.rules.cases.registry import Draw, cases
from tests.moeverify.coupling.rules.removal import OneCall, one_call


@cases("aten.embedding")
def embedding(d: Draw, name: str) -> OneCall:
    rows = d.integer(2, 5)
    return one_call(name, d.tensor(rows, d.integer(2, 4)), d.positions(rows, *d.shape(1, 2)))


@cases("aten._embedding_bag", "aten._embedding_bag_forward_only")
def embedding_bag(d: Draw, name: str) -> OneCall:
    rows, bags, mode = d.integer(2, 5), d.integer(1, 3), d.pick([0, 1, 2])
    table = d.tensor(rows, d.integer(2, 4))
    offsets = torch.arange(bags) * 2
    weights = [d.tensor(2 * bags)] if mode == 0 and d.flag() else []  # for sums only
    return one_call(name, table, d.positions(rows, 2 * bags), offsets, False, mode, False, *weights)


def _indices(d: Draw, shape: list[int]) -> list[torch.Tensor | None]:
    """Index tensors that broadcast to one shape, masks, and dimensions passed over."""
    common = d.shape(1, 2, most=3)
    indices: list[torch.Tensor | None] = []
    at = 0
    while at < len(shape) and (d.flag() or not indices):
        kind = d.pick(["positions", "positions", "pass", "mask"])
        if kind == "pass":
            indices.append(None)
        elif kind == "mask" and not indices:
            covered = d.integer(1, len(shape) - at)
            mask = d.mask(*shape[at : at + covered])
            indices.append(mask)
            return indices
        else:
            indices.append(d.positions(shape[at], *(d.pick([size, size, 1]) for size in common)))
        at += 1
    if all(index is None for index in indices):
        indices[-1] = d.positions(shape[len(indices) - 1], *common)
    return indices


@cases("aten.index", "aten._unsafe_index")
def index(d: Draw, name: str) -> OneCall:
    shape = d.shape(1, 4, least=2, most=4)
    indices = [d.positions(shape[0], 3)] if name == "aten._unsafe_index" else _indices(d, shape)  # takes no masks
    return one_call(name, d.tensor(*shape), indices)


@cases("aten.index_put", "aten.index_put_", "aten._index_put_impl_", "aten._unsafe_index_put")
def index_put(d: Draw, name: str) -> OneCall:
    shape = d.shape(1, 4, least=2, most=4)
    target = d.tensor(*shape)
    indices = _indices(d, shape)
    if name == "aten._unsafe_index_put":  # takes no masks
        indices = [d.positions(shape[0], d.integer(1, 3))]
    picked = torch.ops.aten.index(target, indices)
    accumulate = d.flag()  # without it repeated positions have no defined winner
    if not accumulate:
        indices = [d.distinct(shape[0], d.integer(1, shape[0]))]
        picked = torch.ops.aten.index(target, indices)
    return one_call(name, target, indices, d.broadcast(list(picked.shape)), accumulate)


@cases("aten.index_select", "aten.index_add", "aten.index_add_", "aten.index_copy", "aten.index_copy_")
@cases("aten.index_reduce", "aten.index_reduce_", "aten.index_fill", "aten.index_fill_")
def along_one(d: Draw, name: str) -> OneCall:
    shape = d.shape(1, 3, least=2)
    dim = d.dim(len(shape))
    target = d.tensor(*shape)
    chosen = d.distinct(shape[dim], d.integer(1, shape[dim]))
    if name == "aten.index_select":
        return one_call(name, target, dim, chosen)
    if "fill" in name:
        return one_call(name, target, dim, chosen, 7.0)
    shape[dim] = len(chosen)
    reduce = ["prod"] if "reduce" in name else []
    return one_call(name, target, dim, chosen, d.tensor(*shape), *reduce)


@cases("aten.gather")
def gather(d: Draw, name: str) -> OneCall:
    if d.pick([True, *[False] * 9]):  # nothing is gathered, of any rank
        return one_call(name, d.tensor(d.integer(2, 4)), 0, d.positions(1, 2, 0))
    shape = d.shape(1, 3, least=2)
    dim = d.dim(len(shape))
    chosen = [d.integer(1, size) if i == dim % len(shape) or d.flag() else size for i, size in enumerate(shape)]
    return one_call(name, d.tensor(*shape), dim, d.positions(shape[dim], *chosen))


@cases("aten.scatter", "aten.scatter_", "aten.scatter_add", "aten.scatter_add_")
@cases("aten.scatter_reduce", "aten.scatter_reduce_")
def scatter(d: Draw, name: str) -> OneCall:
    if d.pick([True, *[False] * 9]):  # nothing is scattered, of any rank
        reduce = ["sum"] if "reduce" in name else []
        return one_call(name, d.tensor(d.integer(2, 4)), 0, d.positions(1, 2, 0), d.tensor(2, 0), *reduce)
    shape = d.shape(1, 3, least=2, most=4)
    dim = d.dim(len(shape))
    count = d.integer(1, shape[dim])
    chosen = [
        count if i == dim % len(shape) else size - int(d.pick([False, False, True])) for i, size in enumerate(shape)
    ]
    index = d.tensor(*shape).argsort(dim)[tuple(slice(0, size) for size in chosen)]  # no position twice along dim
    reduce = ["sum"] if "reduce" in name else []
    source = 0.5 if name in ("aten.scatter", "aten.scatter_") and d.flag() else d.tensor(*chosen)
    return one_call(name, d.tensor(*shape), dim, index, source, *reduce)


@cases("aten.topk", "aten.sort", "aten.argsort")
def chosen(d: Draw, name: str) -> OneCall:
    source = d.tensor(*d.shape(1, 3, least=2))
    dim = d.dim(source.dim())
    if name == "aten.topk":
        return one_call(name, source, d.integer(1, source.shape[dim]), dim)
    return one_call(name, source, dim, d.flag())


@cases("aten.masked_select", "aten.masked_scatter", "aten.masked_scatter_", "aten.take", "aten.put")
@cases("aten.repeat_interleave", "aten.searchsorted", "aten.bucketize", "aten.nonzero", "aten.nonzero_static")
@cases("aten.histc", "aten.bincount", "aten._unique2", "aten.unique_dim", "aten.unique_consecutive")
def by_data(d: Draw, name: str) -> OneCall:
    size = d.integer(3, 5)
    source, counts = d.tensor(size), d.positions(3, size)
    arguments = {
        "aten.masked_select": (source, counts > 0),
        "aten.masked_scatter": (source, counts > 0, d.tensor(size)),
        "aten.masked_scatter_": (source, counts > 0, d.tensor(size)),
        "aten.take": (source, d.positions(size, 2)),
        "aten.put": (source, d.distinct(size, 2), d.tensor(2)),
        "aten.repeat_interleave": (counts,),
        "aten.searchsorted": (source.sort().values, d.tensor(2)),
        "aten.bucketize": (d.tensor(2), source.sort().values),
        "aten.histc": (source,),
        "aten.bincount": (counts, d.tensor(size)),
        "aten.unique_dim": (counts, 0),
    }
    keywords = {"size": 2} if name == "aten.nonzero_static" else {}
    return one_call(name, *arguments.get(name, (counts,)), **keywords)
