"""Element by element, reductions, and tensors out of nothing."""

import torch

from tests.moeverify.coupling.rules.cases.registry import Draw, cases
from tests.moeverify.coupling.rules.removal import OneCall, one_call


@cases(
    "aten._to_copy",
    "aten.clone",
    "aten.detach",
    "aten.alias",
    "aten.contiguous",
    "aten.lift_fresh",
    "aten.zeros_like",
    "aten.ones_like",
    "aten.empty_like",
    "aten.zero_",
    "aten._conj",
    "aten.hardswish",
    "aten.hardswish_",
    "aten.log_sigmoid_forward",
)
def unary(d: Draw, name: str) -> OneCall:
    source = d.tensor(*d.shape(1, 4))
    if name == "aten._conj":
        source = torch.complex(source, source.flip(0) + 1)
    return one_call(name, source)


@cases("aten.full_like", "aten.fill_")
def filled(d: Draw, name: str) -> OneCall:
    return one_call(name, d.tensor(*d.shape()), 0.5)


@cases("aten.native_dropout", "aten.dropout", "aten._fused_dropout")
def dropout(d: Draw, name: str) -> OneCall:
    source = d.tensor(*d.shape())
    if name == "aten._fused_dropout":  # a kernel for accelerators: output and mask, here of nothing dropped
        return OneCall(name, lambda x, p: (x.clone(), torch.ones_like(x).bool()), (source, 1.0), {})
    return one_call(name, source, 0.5, False)


@cases("aten.copy_", "aten.bitwise_and", "aten.floor_divide", "aten.masked_fill", "aten.masked_fill_")
@cases("aten.complex", "aten.polar", "aten._prelu_kernel")
def binary(d: Draw, name: str) -> OneCall:
    shape = d.shape(1, 4)
    source, other = d.tensor(*shape), d.broadcast(shape)
    if "masked_fill" in name:
        return one_call(name, source, other > 0, 0.25)
    if name == "aten.bitwise_and":
        return one_call(name, (source * 100).long(), (other * 100).long())
    if name == "aten._prelu_kernel":  # as torch.prelu calls it: one slope a channel, of the same rank
        weight = d.tensor(*(size if i == min(1, len(shape) - 1) else 1 for i, size in enumerate(shape)))
        return one_call(name, source, weight)
    return one_call(name, source, other)


@cases("aten.isin")
def is_in(d: Draw, name: str) -> OneCall:
    elements = d.positions(4, *d.shape(1, 3))
    if d.pick([True, True, False]):
        return one_call(name, elements, d.positions(4, d.pick([2, 3, elements.shape[-1]])))
    return one_call(name, elements, 2)


@cases("aten.view_as_complex", "aten.view_as_real")
def complex_pair(d: Draw, name: str) -> OneCall:
    pair = d.tensor(*d.shape(1, 3), 2)
    return one_call(name, pair if name == "aten.view_as_complex" else torch.view_as_complex(pair))


@cases("aten.glu")
def glu(d: Draw, name: str) -> OneCall:
    shape = d.shape(1, 3)
    dim = d.dim(len(shape))
    shape[dim] *= 2
    return one_call(name, d.tensor(*shape), dim)


@cases("aten._local_scalar_dense", "aten.is_nonzero", "aten._assert_async")
def one_value(d: Draw, name: str) -> OneCall:
    return one_call(name, d.tensor(*[1] * d.integer(0, 2)))


@cases("aten.equal", "aten.sym_size")
def read_by_the_program(d: Draw, name: str) -> OneCall:
    source = d.tensor(*d.shape())
    if name == "aten.equal":
        return one_call(name, source, source.clone())
    return OneCall(name, lambda x: tuple(x.shape), (source,), {})


@cases(
    "aten.sum",
    "aten.mean",
    "aten.nansum",
    "aten.count_nonzero",
    "aten.linalg_vector_norm",
    "aten.norm",
    "aten.amax",
    "aten.amin",
    "aten.var",
    "aten.var_mean",
    "aten.std",
    "aten.std_mean",
    "aten.logsumexp",
)
def over_several(d: Draw, name: str) -> OneCall:
    shape = d.shape(1, 4, least=2, most=4)
    dims = [i - len(shape) if d.flag() else i for i in d.some(range(len(shape)), least=1)]
    source = d.tensor(*shape)
    if name == "aten.count_nonzero":
        return one_call(name, source.round(), dims)
    if "norm" in name:
        order = d.pick([2, 1, 3.5, 0, torch.inf, -1, -torch.inf])
        return one_call(name, source, order, dims, d.flag())
    if name[5:] in ("var", "var_mean", "std", "std_mean"):
        return one_call(name, source, dims, correction=0, keepdim=d.flag())
    if name in ("aten.sum", "aten.mean", "aten.nansum") and d.pick([False, False, True]):
        return one_call(name, source)
    return one_call(name, source, dims, d.flag())


@cases(
    "aten.max",
    "aten.min",
    "aten.prod",
    "aten.any",
    "aten.all",
    "aten.argmax",
    "aten.argmin",
    "aten.median",
    "aten.nanmedian",
    "aten.mode",
    "aten.kthvalue",
    "aten.aminmax",
)
def over_one(d: Draw, name: str) -> OneCall:
    source = d.tensor(*d.shape(1, 3, least=2, most=4))
    if name in ("aten.any", "aten.all"):
        source = source > 1 if name == "aten.any" else source < 1
    dim, keep = d.dim(source.dim()), d.flag()
    if name == "aten.kthvalue":
        return one_call(name, source, 1, dim, keep)
    if name == "aten.aminmax":
        return one_call(name, source, dim=dim, keepdim=keep)
    if name in ("aten.max", "aten.min") and d.flag():
        return one_call(name, source, d.tensor(*source.shape))
    if name != "aten.mode" and d.pick([False, False, True]):
        return one_call(name, source)
    return one_call(name, source, dim, keep)


@cases("aten._softmax", "aten._log_softmax", "aten._safe_softmax")
@cases("aten.cumsum", "aten.cumprod", "aten.logcumsumexp", "aten.cummax", "aten.cummin")
def ordered(d: Draw, name: str) -> OneCall:
    source = d.tensor(*d.shape(1, 3, least=2))
    half = [False] if name in ("aten._softmax", "aten._log_softmax") else []
    return one_call(name, source, d.dim(source.dim()), *half)


@cases("aten.zeros", "aten.ones", "aten.full", "aten.empty", "aten.empty_strided", "aten.scalar_tensor")
@cases("aten.new_zeros", "aten.new_ones", "aten.new_full", "aten.new_empty")
def constant(d: Draw, name: str) -> OneCall:
    shape = d.shape()
    if name == "aten.scalar_tensor":
        return one_call(name, 2.0)
    arguments = [shape]
    if name.endswith("full"):
        arguments.append(0.5)
    if name == "aten.empty_strided":
        arguments.append(list(torch.empty(shape).stride()))
    source = [d.tensor(*d.shape())] if ".new" in name else []
    return one_call(name, *source, *arguments)


@cases("aten.arange", "aten.linspace", "aten.logspace", "aten.eye", "aten.randperm")
@cases("aten.tril_indices", "aten.triu_indices", "aten.rand", "aten.randn", "aten.randint")
def counted(d: Draw, name: str) -> OneCall:
    number = d.integer(2, 5)
    arguments = {
        "aten.linspace": [0.0, 1.0, number],
        "aten.logspace": [0.0, 1.0, number],
        "aten.tril_indices": [number, number],
        "aten.triu_indices": [number, number],
        "aten.rand": [[number, 2]],
        "aten.randn": [[number, 2]],
        "aten.randint": [5, [number, 2]],
    }
    return one_call(name, *arguments.get(name, [number]))


@cases("aten.uniform_", "aten.normal_", "aten.bernoulli_", "aten.exponential_", "aten.cauchy_", "aten.log_normal_")
@cases("aten.geometric_", "aten.bernoulli", "aten.normal", "aten.multinomial")
@cases("aten.rand_like", "aten.randn_like", "aten.randint_like")
def random(d: Draw, name: str) -> OneCall:
    source = d.tensor(*d.shape(1, 2, least=2)).sigmoid()
    extra = {
        "aten.geometric_": [0.5],
        "aten.randint_like": [5],
        "aten.multinomial": [2],
        "aten.normal": [source.clone()],
    }
    return one_call(name, source, *extra.get(name, []))
