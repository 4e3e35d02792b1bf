"""Views, rearrangements, and operations that depend on the position."""

import math

import torch

from tests.moeverify.coupling.rules.cases.registry import Draw, cases
from tests.moeverify.coupling.rules.removal import OneCall, one_call


def _regrouped(d: Draw, shape: list[int]) -> list[int]:
    """Another shape with as many elements: its prime factors in a row, or out of order, cut anywhere."""
    primes = [p for size in shape for p in _primes(size)]
    if d.pick([False, False, True]):
        primes = d.order(primes)
    target: list[int] = []
    for prime in primes:
        if target and d.flag():
            target[-1] *= prime
        else:
            target.append(prime)
    if d.flag():
        target.insert(d.integer(0, len(target)), 1)
    return target or [1]


def _primes(number: int) -> list[int]:
    factors = []
    for p in (2, 3, 5):
        while number % p == 0:
            factors.append(p)
            number //= p
    return factors


@cases("aten.view", "aten._unsafe_view", "aten.reshape", "aten._reshape_alias")
def view(d: Draw, name: str) -> OneCall:
    shape = d.shape(1, 4, most=6)
    if name == "aten.view" and d.pick([True, *[False] * 9]):
        return one_call(name, d.tensor(*shape), torch.int64)
    target = _regrouped(d, shape)
    if d.pick([False, False, False, True]):  # nothing in it
        shape = [0, *d.shape(1, 2, least=2)]
        target = [0, *d.shape(0, 2, least=2)]
    extra = []
    if name == "aten._reshape_alias":
        extra = [[math.prod(target[i + 1 :]) for i in range(len(target))]]
    return one_call(name, d.tensor(*shape), target, *extra)


@cases("aten.t", "aten.transpose", "aten.permute")
def permute(d: Draw, name: str) -> OneCall:
    shape = d.shape(1, 2) if name == "aten.t" else d.shape(2, 4)
    arguments = []
    if name == "aten.transpose":
        arguments = [d.dim(len(shape)), d.dim(len(shape))]
    elif name == "aten.permute":
        arguments = [[i - len(shape) if d.flag() else i for i in d.order(range(len(shape)))]]
    return one_call(name, d.tensor(*shape), *arguments)


@cases("aten.unsqueeze", "aten.squeeze")
def singleton(d: Draw, name: str) -> OneCall:
    shape = d.shape(1, 4, most=3)
    if name == "aten.unsqueeze":
        return one_call(name, d.tensor(*shape), d.dim(len(shape) + 1))
    arguments = d.pick([[], [d.dim(len(shape))], [d.some(range(len(shape)))]])
    return one_call(name, d.tensor(*shape), *arguments)


@cases("aten.expand")
def expand(d: Draw, name: str) -> OneCall:
    shape = d.shape(1, 3, most=4)
    target = [*d.shape(0, 2), *(d.integer(2, 4) if size == 1 and d.flag() else size for size in shape)]
    return one_call(name, d.tensor(*shape), target)


@cases("aten.repeat")
def repeat(d: Draw, name: str) -> OneCall:
    shape = d.shape(1, 3)
    return one_call(name, d.tensor(*shape), d.shape(len(shape), len(shape) + 1, most=3))


@cases("aten.as_strided_")
def restride(d: Draw, name: str) -> OneCall:
    """Other strides where the size is 1; that any others are frozen is the record's part."""
    source = d.tensor(*d.shape(1, 4))
    stride = [d.integer(1, 9) if size == 1 else step for size, step in zip(source.shape, source.stride(), strict=True)]
    return one_call(name, source, list(source.shape), stride)


@cases("aten.slice", "aten.slice_scatter")
def slice_(d: Draw, name: str) -> OneCall:
    shape = d.shape(1, 3, least=2, most=9)
    dim = d.dim(len(shape))
    size = shape[dim]
    step = d.pick([1, 1, 2, 3])
    if d.flag():
        size = shape[dim] = step * d.integer(1, 4)
    start = d.pick([None, d.integer(-size, size - 1), d.integer(0, min(step, size) - 1)])
    end = d.pick([None, d.integer(-size, size), 2**63 - 1])
    source = d.tensor(*shape)
    if name == "aten.slice":
        return one_call(name, source, dim, start, end, step)
    length = len(range(*slice(start, end, step).indices(size)))
    shape[dim] = length
    return one_call(name, source, d.tensor(*shape), dim, start, end, step)


@cases("aten.select", "aten.select_scatter")
def select(d: Draw, name: str) -> OneCall:
    shape = d.shape(1, 3, least=2)
    dim = d.dim(len(shape))
    position = d.integer(-shape[dim], shape[dim] - 1)
    rest = [size for i, size in enumerate(shape) if i != dim % len(shape)]
    part = [d.tensor(*rest)] if name == "aten.select_scatter" else []
    return one_call(name, d.tensor(*shape), *part, dim, position)


@cases("aten.unbind", "aten.chunk", "aten.split", "aten.unsafe_split")
def split(d: Draw, name: str) -> OneCall:
    shape = d.shape(1, 3, least=2, most=6)
    dim = d.dim(len(shape))
    if name == "aten.unbind":
        return one_call(name, d.tensor(*shape), dim)
    count = d.integer(1, 3)
    if d.flag():
        shape[dim] = count * d.integer(2, 4)  # equal parts, by size or by number
        count = count if name == "aten.chunk" else shape[dim] // count
    return one_call(name, d.tensor(*shape), count, dim)


@cases("aten.split_with_sizes", "aten.unsafe_split_with_sizes")
def split_with_sizes(d: Draw, name: str) -> OneCall:
    sizes = d.shape(1, 3, most=4)
    shape = d.shape(1, 3)
    dim = d.dim(len(shape))
    shape[dim] = sum(sizes)
    return one_call(name, d.tensor(*shape), sizes, dim)


@cases("aten.cat", "aten.stack")
def cat(d: Draw, name: str) -> OneCall:
    shape = d.shape(1, 3)
    if name == "aten.stack":
        return one_call(name, [d.tensor(*shape) for _ in range(d.integer(1, 3))], d.dim(len(shape) + 1))
    dim = d.dim(len(shape))
    parts = []
    for _ in range(d.integer(1, 3)):
        part = list(shape)
        part[dim] = d.integer(1, 4)
        parts.append(d.tensor(*part))
    if d.flag():
        parts.insert(0, d.tensor(0))
    return one_call(name, parts, dim)


@cases("aten.flip", "aten.roll")
def turn(d: Draw, name: str) -> OneCall:
    shape = d.shape(1, 3)
    dims = d.some(range(len(shape)), least=1)
    if name == "aten.flip":
        return one_call(name, d.tensor(*shape), dims)
    if d.flag():
        return one_call(name, d.tensor(*shape), [d.integer(-3, 3)])
    return one_call(name, d.tensor(*shape), [d.integer(1, 3) for _ in dims], dims)


@cases("aten.tril", "aten.triu", "aten.tril_", "aten.triu_")
def triangle(d: Draw, name: str) -> OneCall:
    return one_call(name, d.tensor(*d.shape(2, 4)), d.integer(-1, 1))


@cases("aten.constant_pad_nd")
def pad(d: Draw, name: str) -> OneCall:
    shape = d.shape(1, 3, least=3)
    widths = [d.integer(-1, 2) if d.flag() else 0 for _ in range(2 * d.integer(1, len(shape)))]
    return one_call(name, d.tensor(*shape), widths, 0.5)


@cases("aten.diagonal")
def diagonal(d: Draw, name: str) -> OneCall:
    shape = d.shape(2, 4, least=2)
    first, second = d.order(range(len(shape)))[:2]
    return one_call(name, d.tensor(*shape), d.integer(-1, 1), first, second)


@cases("aten.unfold")
def unfold(d: Draw, name: str) -> OneCall:
    shape = d.shape(1, 3, least=2)
    dim = d.dim(len(shape))
    return one_call(name, d.tensor(*shape), dim, d.integer(1, shape[dim]), d.integer(1, 3))
