"""Contractions, grouped products, attention and convolutions."""

import torch

from tests.moeverify.coupling.rules.cases.registry import Draw, cases
from tests.moeverify.coupling.rules.removal import OneCall, one_call


@cases("aten.mm", "aten.bmm", "aten.addmm", "aten.baddbmm", "aten.addbmm", "aten.linear")
def matrix_product(d: Draw, name: str) -> OneCall:
    n, k, m = d.integer(1, 4), d.integer(2, 5), d.integer(1, 4)
    if d.flag():
        m = n = k  # square: a matrix must not be taken for its transpose
    if name == "aten.linear":
        lead = d.shape(0, 2)
        bias = [d.tensor(m)] if d.flag() else []
        return one_call(name, d.tensor(*lead, k), d.tensor(m, k), *bias)
    batch = [d.integer(1, 3)] if "bmm" in name else []
    left, right = d.tensor(*batch, n, k), d.tensor(*batch, k, m)
    if "add" not in name:
        return one_call(name, left, right)
    scale = {"beta": 0.5, "alpha": 2.0} if d.flag() else {}
    return one_call(name, d.broadcast([n, m] if name == "aten.addbmm" else [*batch, n, m]), left, right, **scale)


@cases("aten.mv", "aten.addmv")
def matrix_vector(d: Draw, name: str) -> OneCall:
    n, k = d.integer(1, 4), d.integer(2, 5)
    bias = [d.broadcast([n])] if name == "aten.addmv" else []
    return one_call(name, *bias, d.tensor(n, k), d.tensor(k))


@cases("aten.dot", "aten.vdot")
def dot(d: Draw, name: str) -> OneCall:
    k = d.integer(2, 5)
    return one_call(name, d.tensor(k), d.tensor(k))


def grouped_product(left, right, offs=None, bias=None, out_dtype=None):
    """``_grouped_mm`` by its definition: CPU kernels take no float64.

    Rows of ``left`` are grouped; with a two-dimensional ``right`` the contracted dimension is.
    """
    if offs is None:
        return left @ right
    starts = [0, *offs.tolist()[:-1]]
    spans = [slice(start, end) for start, end in zip(starts, offs.tolist(), strict=True)]
    if right.dim() == 2:
        return torch.stack([left[:, span] @ right[span] for span in spans])
    parts = [left[span] @ right[expert] for expert, span in enumerate(spans)]
    if bias is not None:
        parts = [part + bias[expert] for expert, part in enumerate(parts)]
    return torch.cat(parts)


@cases("aten._grouped_mm", "transformers.grouped_mm_fallback")
def grouped(d: Draw, name: str) -> OneCall:
    experts, k, m = d.integer(1, 4), d.integer(2, 4), d.integer(2, 4)
    counts = [d.integer(0, 3) for _ in range(experts)]
    counts[0] += 2
    offsets = torch.tensor(counts).cumsum(0)
    rows = sum(counts)
    layout = d.pick(["rows", "rows", "rows", "bias", "contracted", "batch"])
    if layout == "batch":
        return OneCall(name, grouped_product, (d.tensor(experts, rows, k), d.tensor(experts, k, m)), {})
    if layout == "contracted":
        return OneCall(name, grouped_product, (d.tensor(k, rows), d.tensor(rows, m), offsets), {})
    bias = (d.tensor(experts, m),) if layout == "bias" else ()
    return OneCall(name, grouped_product, (d.tensor(rows, k), d.tensor(experts, k, m), offsets, *bias), {})


def attend(query, key, value, mask=None, scale=None):
    """Attention by its definition, with query heads ``h`` using key head ``h // group``; and what kernels add."""
    for dim in range(query.dim() - 2):
        group = query.shape[dim] // key.shape[dim]
        key, value = key.repeat_interleave(group, dim), value.repeat_interleave(group, dim)
    scores = query @ key.transpose(-1, -2) * (scale or query.shape[-1] ** -0.5)
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1) @ value, scores.logsumexp(-1), torch.arange(2)


@cases(
    "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_flash_attention",
    "aten._scaled_dot_product_efficient_attention",
    "aten._scaled_dot_product_attention_math",
    "aten._scaled_dot_product_cudnn_attention",
    "aten.scaled_dot_product_attention",
)
def attention(d: Draw, name: str) -> OneCall:
    batch, few, group, length = d.integer(1, 3), d.integer(1, 3), d.pick([1, 1, 2, 3]), d.integer(1, 3)
    keys, width = d.integer(2, 4), d.integer(2, 3)
    query = d.tensor(batch, few * group, length, width)
    key, value = d.tensor(batch, few, keys, width), d.tensor(batch, few, keys, d.integer(2, 3))
    options = {"mask": d.broadcast([batch, few * group, length, keys])} if d.flag() else {}
    if d.flag():
        options["scale"] = 0.7
    return OneCall(name, attend, (query, key, value), options)


@cases("aten.convolution", "aten._convolution")
def convolution(d: Draw, name: str) -> OneCall:
    space = d.integer(1, 2)
    groups, given = d.integer(1, 3), d.integer(1, 3)
    # A dimension of one channel relates to nothing, so a single group has more.
    taken = d.integer(2, 3) if groups == 1 else d.pick([1, 1, 2, 3])  # one a group is depthwise
    transposed = d.flag()
    weight = [groups * taken, given] if transposed else [groups * given, taken]
    kernel = [d.integer(1, 2) for _ in range(space)]
    bias = d.tensor(groups * given) if d.flag() else None
    source = d.tensor(d.integer(1, 2), groups * taken, *(d.integer(2, 4) for _ in range(space)))
    ones, zeros = [1] * space, [0] * space
    arguments = (source, d.tensor(*weight, *kernel), bias, [d.integer(1, 2)] * space, zeros, ones, transposed, zeros)
    tail = (False, False, False, False) if name == "aten._convolution" else ()
    return one_call(name, *arguments, groups, *tail)


@cases("aten.linalg_solve_triangular")
def solve_triangular(d: Draw, name: str) -> OneCall:
    batch, n, k, left = d.shape(0, 1, most=3), d.integer(2, 4), d.integer(1, 3), d.flag()
    triangle = d.tensor(*batch, n, n).tril() + 3 * torch.eye(n, dtype=torch.float64)
    return one_call(name, triangle, d.tensor(*batch, *((n, k) if left else (k, n))), upper=False, left=left)
