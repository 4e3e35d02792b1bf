"""Convolutions and what lies between them in a vision model: pooling, upsampling, batch and group normalisation."""

from __future__ import annotations

from moeverify.coupling.dims import Relations
from moeverify.coupling.rules.registry import Call, rule

SPATIAL = "neighbouring positions are combined"
GROUPS = "the number of channel groups is fixed in the layer"


def _grouped(whole: int, part: int, groups: int, relations: Relations) -> None:
    """``whole`` holds ``part`` once for each of a fixed number of groups."""
    (count,) = relations.new_dims([groups])
    relations.freeze(count, GROUPS)
    relations.product(whole, (count, part))


@rule("aten.convolution", "aten._convolution")
def convolution(call: Call, relations: Relations) -> None:
    """``[b, i, ...], [o, i / groups, ...] -> [b, o, ...]``; transposed: weight ``[i, o / groups, ...]``.

    A depthwise layer couples its inputs with its outputs; a grouped one loses the same channels in every group.
    """
    source, weight, out = call.dims(0), call.dims(1), call.out
    transposed, groups = call.args[6], call.args[8]
    relations.equal(source[0], out[0])
    relations.freeze_all((*source[2:], *weight[2:], *out[2:]), SPATIAL)
    bias = call.args[2]
    if bias is not None:
        relations.equal(call.dims_of(bias)[0], out[1])
    first, second = (source[1], out[1]) if transposed else (out[1], source[1])
    relations.equal(weight[0], first)
    if groups == 1:
        relations.equal(weight[1], second)
    elif groups == relations.sizes[source[1]] == relations.sizes[out[1]]:
        relations.equal(source[1], out[1])
    else:
        (per_group,) = relations.new_dims([relations.sizes[first] // groups])
        _grouped(first, per_group, groups, relations)
        _grouped(second, weight[1], groups, relations)


@rule(
    "aten.max_pool2d_with_indices",
    "aten.max_pool3d_with_indices",
    "aten.max_pool2d",
    "aten.avg_pool1d",
    "aten.avg_pool2d",
    "aten.avg_pool3d",
    "aten._adaptive_avg_pool2d",
    "aten._adaptive_avg_pool3d",
    "aten.adaptive_max_pool2d",
    "aten.upsample_nearest1d",
    "aten.upsample_nearest2d",
    "aten.upsample_bilinear2d",
    "aten.upsample_bicubic2d",
    "aten._upsample_bicubic2d_aa",
    "aten._upsample_bilinear2d_aa",
    "aten.mkldnn_max_pool2d",
)
def pooling(call: Call, relations: Relations) -> None:
    """Batch and channels go through; spatial positions are combined."""
    source = call.dims(0)
    lead = len(source) - {"1": 1, "2": 2, "3": 3}[next(c for c in reversed(call.name) if c in "123")]
    for output in call.outputs:
        out = call.dims_of(output)
        for a, b in zip(source[:lead], out[:lead], strict=True):
            relations.equal(a, b)
        relations.freeze_all((*source[lead:], *out[lead:]), SPATIAL)


@rule(
    "aten.native_batch_norm",
    "aten._native_batch_norm_legit",
    "aten._native_batch_norm_legit_no_training",
    "aten.cudnn_batch_norm",
    "aten.miopen_batch_norm",
)
def batch_norm(call: Call, relations: Relations) -> None:
    """``[b, c, ...]`` with weight, bias and running statistics ``[c]``: each channel for itself."""
    source, out = call.dims(0), call.out
    for a, b in zip(source, out, strict=True):
        relations.equal(a, b)
    for tensor in (*call.tensors()[1:], *call.outputs[1:]):
        dims = call.dims_of(tensor)
        if len(dims) == 1 and relations.sizes[dims[0]]:  # in evaluation the saved statistics are empty
            relations.equal(dims[0], source[1])


@rule("aten.native_group_norm")
def group_norm(call: Call, relations: Relations) -> None:
    """``[b, c, ...]`` normalised in a fixed number of channel groups, each of which must lose as many channels."""
    source, out = call.dims(0), call.out
    for a, b in zip(source, out, strict=True):
        relations.equal(a, b)
    for tensor in call.tensors()[1:]:
        relations.equal(call.dims_of(tensor)[0], source[1])
    groups = call.args[6]
    (per_group,) = relations.new_dims([relations.sizes[source[1]] // groups])
    if groups > 1:
        _grouped(source[1], per_group, groups, relations)
    for statistic in call.outputs[1:]:
        relations.freeze_all(call.dims_of(statistic), "statistics of the normalisation")


@rule("aten._prelu_kernel")
def prelu(call: Call, relations: Relations) -> None:
    """A slope for each channel, broadcast to the input."""
    relations.equal_all(call.dims(0), call.out)
    relations.equal_all(call.dims(1), call.out)
