"""What real code does differently once positions are gone, and what a consuming operation is compared with.

``ADAPT`` re-derives the sizes that a program would compute anew (the target of a view, the parts of a split).
``REFERENCES`` gives the result before removal for operations that consume positions: with these positions masked, or,
for means and normalisations, by their definition over the kept positions. Neither knows the rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket
from torch.utils._pytree import tree_leaves

from tests.moeverify.coupling.rules.removal import OneCall, Removed, cut, cut_result, difference

Adapt = Callable[[tuple, dict, "Changed"], tuple]
Reference = Callable[[OneCall, Removed], Any]
ADAPT: dict[str, Adapt] = {}
REFERENCES: dict[str, Reference] = {}

# Kernels behind torch.nn.functional.scaled_dot_product_attention that run on this machine.
KERNELS = ("aten._scaled_dot_product_flash_attention_for_cpu",)
# Uninitialised memory: only the shape is defined.
SHAPE_ONLY = {"aten.empty", "aten.empty_like", "aten.new_empty", "aten.empty_strided"}


class Changed:
    """One removal: the original call, what goes, and the outputs that must come out."""

    def __init__(self, call: OneCall, removed: Removed, expected: Any) -> None:
        self.call = call
        self.removed = removed
        self.outputs = [leaf for leaf in tree_leaves(expected) if isinstance(leaf, torch.Tensor)]

    def kept_before(self, name: str, dim: int, position: int) -> int:
        """How many positions of a dimension before ``position`` stay."""
        return position - sum(p < position for p in self.removed.get((name, dim), ()))


def adapt(*names: str) -> Callable[[Adapt], Adapt]:
    """Register how the arguments of operations are re-derived."""

    def register(function: Adapt) -> Adapt:
        ADAPT.update(dict.fromkeys(names, function))
        return function

    return register


def reference(*names: str) -> Callable[[Reference], Reference]:
    """Register what consuming operations are compared with."""

    def register(function: Reference) -> Reference:
        REFERENCES.update(dict.fromkeys(names, function))
        return function

    return register


def commutes(call: OneCall, result: Any, removed: Removed) -> str | None:
    """``None`` if removing commutes with the call, else what is different. ``result`` is that of ``call``."""
    before = REFERENCES[call.name](call, removed) if call.name in REFERENCES else result
    expected = cut_result(before, removed)
    reduced = call.with_inputs(lambda number, tensor: cut(tensor, f"input{number}", removed))
    if call.name in ADAPT and isinstance(call.func, OpOverload | OpOverloadPacket):
        args, kwargs, *func = ADAPT[call.name](reduced.args, dict(reduced.kwargs), Changed(call, removed, expected))
        reduced = OneCall(call.name, *(func or [getattr(call.func, "overloadpacket", call.func)]), args, kwargs)
    try:
        actual = reduced.run()
    except (RuntimeError, IndexError, ValueError) as error:
        return f"fails after removal: {str(error).splitlines()[0]}"
    if isinstance(actual, torch.Tensor) and isinstance(expected, tuple):  # attention, without a kernel's statistics
        expected = expected[0]
    return difference(actual, expected, values=call.name not in SHAPE_ONLY)


def _replace(args: tuple, position: int, value: Any) -> tuple:
    return (*args[:position], value, *args[position + 1 :])


@adapt("aten.view", "aten._unsafe_view", "aten.reshape", "aten.expand", "aten.new_zeros", "aten.new_ones")
@adapt("aten.new_full", "aten.new_empty")
def _target_size(args, kwargs, changed):
    return _replace(args, 1, list(changed.outputs[0].shape)), kwargs


@adapt("aten.repeat")
def _copies(args, kwargs, changed):
    """How often one position is copied is the size of what it meets; copies of several stay as many."""
    source, counts = changed.call.inputs[0], list(args[1])
    lead = len(counts) - source.dim()
    for dim, size in enumerate(source.shape, start=lead):
        if size == 1:
            counts[dim] = changed.outputs[0].shape[dim]
    return (args[0], counts), kwargs


@adapt("aten.zeros", "aten.ones", "aten.full", "aten.empty")
def _size(args, kwargs, changed):
    return _replace(args, 0, list(changed.outputs[0].shape)), kwargs


@adapt("aten.as_strided_")
def _own_size_and_stride(args, kwargs, changed):
    return (args[0], list(args[0].shape), list(args[0].stride()), *args[3:]), kwargs


@adapt("aten._reshape_alias", "aten.empty_strided")
def _size_and_stride(args, kwargs, changed):
    at = 0 if changed.call.name == "aten.empty_strided" else 1
    shape = changed.outputs[0].shape
    stride = torch.empty(shape).stride()
    return _replace(_replace(args, at, list(shape)), at + 1, list(stride)), kwargs


@adapt("aten.slice", "aten.slice_scatter")
def _slice_bounds(args, kwargs, changed):
    scatter = changed.call.name == "aten.slice_scatter"
    source, rest = changed.call.inputs[0], list(args[2 if scatter else 1 :])
    dim, start, end, step = [*rest, *[0, None, None, 1][len(rest) :]]
    dim %= source.dim()
    size = source.shape[dim]
    start, end, _ = slice(start, end, step).indices(size)
    end = changed.kept_before("input0", dim, max(start, end))
    if step == 1:  # else it is the phase
        start = changed.kept_before("input0", dim, start)
    return (*args[: 2 if scatter else 1], dim, start, end, step), kwargs


@adapt("aten.split", "aten.split_with_sizes", "aten.unsafe_split", "aten.unsafe_split_with_sizes")
def _split_sizes(args, kwargs, changed):
    dim = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % args[0].dim()
    sizes = [out.shape[dim] for out in changed.outputs]
    return _replace(args, 1, sizes if isinstance(args[1], list | tuple) else max(sizes[0], 1)), kwargs


@adapt("aten.native_layer_norm", "aten._fused_rms_norm")
def _normalised_shape(args, kwargs, changed):
    return _replace(args, 1, list(args[0].shape[args[0].dim() - len(args[1]) :])), kwargs


@adapt(*KERNELS)
def _attention(args, kwargs, changed):
    """A program calls the attention function, which picks a kernel that takes what is left."""
    query, key, value, dropout, causal = [*args, *[0.0, False][len(args) - 3 :]]
    mask, scale = kwargs.get("attn_mask"), kwargs.get("scale")
    options = {"scale": scale, "enable_gqa": key.shape[1] != query.shape[1]}
    return (query, key, value, mask, dropout, causal), options, torch.ops.aten.scaled_dot_product_attention


@adapt("aten.squeeze")
def _squeezed(args, kwargs, changed):
    """``squeeze`` drops what has size 1: a program means the dimensions that always have."""
    shape = changed.call.args[0].shape
    dims = args[1] if len(args) > 1 else range(len(shape))
    dims = [dims] if isinstance(dims, int) else dims
    return (args[0], tuple(d for d in dims if shape[d] == 1)), kwargs


@adapt("aten.convolution", "aten._convolution")
def _depthwise_groups(args, kwargs, changed):
    """A module with one group per channel has as many groups as channels."""
    depthwise = args[8] > 1 and args[8] == changed.call.args[0].shape[1]
    return (_replace(args, 8, args[0].shape[1]) if depthwise else args), kwargs


@adapt("aten.native_group_norm")
def _group_norm_sizes(args, kwargs, changed):
    source = args[0]
    groups = source.shape[1] if args[6] == changed.call.args[0].shape[1] else args[6]
    space = math.prod(source.shape[2:])
    return (*args[:3], source.shape[0], source.shape[1], space, groups, *args[7:]), kwargs


def masked_inputs(call: OneCall, removed: Removed) -> OneCall:
    """The call with the removed positions of its inputs at zero."""

    def mask(number: int, tensor: torch.Tensor) -> torch.Tensor:
        for (owner, dim), positions in removed.items():
            if owner == f"input{number}":
                tensor.index_fill_(dim, torch.tensor(list(positions)), 0)
        return tensor

    return call.with_inputs(mask)


@reference("aten.sum", "aten.linalg_vector_norm", "aten.mm", "aten.bmm", "aten.addmm", "aten.baddbmm", "aten.mv")
@reference(
    "aten.addmv",
    "aten.addbmm",
    "aten.vdot",
    "aten.nansum",
    "aten.count_nonzero",
    "aten.norm",
    "aten.convolution",
    "aten._convolution",
)
@reference("aten.dot", "aten.linear", "aten._grouped_mm", "transformers.grouped_mm_fallback")
@reference(*KERNELS, "aten._scaled_dot_product_efficient_attention", "aten.scaled_dot_product_attention")
def masked(call: OneCall, removed: Removed) -> Any:
    """A consumed position counts nothing once it is zero."""
    return masked_inputs(call, removed).run()


def weights(call: OneCall, removed: Removed, number: int) -> torch.Tensor:
    """One where an element of an input stays, zero where it goes."""
    ones = call.with_inputs(lambda _, tensor: torch.ones_like(tensor))
    return masked_inputs(ones, removed).inputs[number]


@reference("aten.mean")
def masked_mean(call: OneCall, removed: Removed) -> Any:
    """The sum of the kept over their number."""
    stays = weights(call, removed, 0)
    dims = call.args[1] if len(call.args) > 1 else None
    keep = call.args[2] if len(call.args) > 2 else False
    dims = tuple(dims) if dims else tuple(range(stays.dim()))
    source = call.inputs[0]
    if not dims:
        return source
    return (source * stays).sum(dims, keepdim=keep) / stays.sum(dims, keepdim=keep)


@reference("aten.native_layer_norm")
def masked_layer_norm(call: OneCall, removed: Removed) -> Any:
    """Mean and variance over the kept."""
    source, shape, weight, bias, eps = call.args
    stays = weights(call, removed, 0)
    dims = tuple(range(source.dim() - len(shape), source.dim()))
    count = stays.sum(dims, keepdim=True)
    mean = (source * stays).sum(dims, keepdim=True) / count
    rstd = (((source - mean) ** 2 * stays).sum(dims, keepdim=True) / count + eps).rsqrt()
    out = (source - mean) * rstd
    out = out * weight if weight is not None else out
    return out + bias if bias is not None else out, mean, rstd


@reference("aten._fused_rms_norm")
def masked_rms_norm(call: OneCall, removed: Removed) -> Any:
    """Mean square over the kept."""
    source, shape, weight = call.args[:3]
    eps = call.args[3] if len(call.args) > 3 and call.args[3] is not None else torch.finfo(source.dtype).eps
    stays = weights(call, removed, 0)
    dims = tuple(range(source.dim() - len(shape), source.dim()))
    square = (source**2 * stays).sum(dims, keepdim=True) / stays.sum(dims, keepdim=True)
    rstd = (square + eps).rsqrt()
    out = source * rstd
    return out * weight if weight is not None else out, rstd


@reference("aten.native_group_norm")
def masked_group_norm(call: OneCall, removed: Removed) -> Any:
    """Mean and variance of each group over the kept."""
    source, weight, bias, batch, channels, _, groups, eps = call.args
    if not source.numel():
        return call.run()
    stays = weights(call, removed, 0).reshape(batch, groups, -1)
    value = source.reshape(batch, groups, -1)
    count = stays.sum(-1, keepdim=True)
    mean = (value * stays).sum(-1, keepdim=True) / count
    rstd = (((value - mean) ** 2 * stays).sum(-1, keepdim=True) / count + eps).rsqrt()
    out = ((value - mean) * rstd).reshape(source.shape)
    shape = [1, channels, *[1] * (source.dim() - 2)]
    out = out * weight.view(shape) if weight is not None else out
    out = out + bias.view(shape) if bias is not None else out
    return out, mean.squeeze(-1), rstd.squeeze(-1)
