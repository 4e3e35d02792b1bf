"""Normalisations, pooling, resampling, padding and shuffling of channels."""

import torch

from tests.moeverify.coupling.rules.cases.registry import Draw, cases
from tests.moeverify.coupling.rules.removal import OneCall, one_call


@cases("aten.native_layer_norm", "aten._fused_rms_norm")
def layer_norm(d: Draw, name: str) -> OneCall:
    lead, shape = d.shape(0, 2, most=3), d.shape(1, 2, least=2, most=4)
    weight = d.tensor(*shape) if d.flag() else None
    source = d.tensor(*lead, *shape)
    if name == "aten._fused_rms_norm":
        return OneCall(name, torch.ops.aten._fused_rms_norm.default, (source, shape, weight, 1e-5), {})
    bias = d.tensor(*shape) if d.flag() else None
    return one_call(name, source, shape, weight, bias, 1e-5)


def normalise_batch(source, weight, bias, mean, var, *rest):
    """Batch normalisation in evaluation by its definition."""
    shape = [1, -1, *[1] * (source.dim() - 2)]
    out = (source - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()
    out = out * weight.view(shape) if weight is not None else out
    out = out + bias.view(shape) if bias is not None else out
    return out, source.new_empty(0), source.new_empty(0)


def normalise_by_batch(source, weight, bias, mean, var, *rest):
    """Batch normalisation in training by its definition, with its statistics."""
    dims = [0, *range(2, source.dim())]
    mean, var = source.mean(dims), source.var(dims, correction=0)
    out = normalise_batch(source, weight, bias, mean, var)[0]
    return out, mean, (var + 1e-5).rsqrt()


@cases(
    "aten.native_batch_norm",
    "aten._native_batch_norm_legit",
    "aten._native_batch_norm_legit_no_training",
    "aten._batch_norm_no_update",
    "aten._batch_norm_with_update",
    "aten.cudnn_batch_norm",
    "aten.miopen_batch_norm",
)
def batch_norm(d: Draw, name: str) -> OneCall:
    channels = d.integer(2, 4)
    source = d.tensor(d.integer(2, 3), channels, *d.shape(0, 2, least=2, most=3))
    weight, bias = (d.tensor(channels) if d.flag() else None for _ in range(2))
    mean, var = d.tensor(channels), d.tensor(channels).abs() + 0.5
    by_batch = name not in ("aten._native_batch_norm_legit_no_training", "aten._batch_norm_no_update") and d.flag()
    func = normalise_by_batch if by_batch else normalise_batch
    return OneCall(name, func, (source, weight, bias, mean, var, by_batch), {})


@cases("aten.native_group_norm")
def group_norm(d: Draw, name: str) -> OneCall:
    batch, groups, each = d.integer(1, 3), d.integer(1, 3), d.integer(1, 3)
    space = d.shape(0, 2, least=2, most=3)
    channels = groups * each
    source = d.tensor(batch, channels, *space)
    weight, bias = (d.tensor(channels) if d.flag() else None for _ in range(2))
    return one_call(name, source, weight, bias, batch, channels, source[0, 0].numel(), groups, 1e-5)


def _space(name: str) -> int:
    return int(next(c for c in reversed(name) if c in "123"))


def _source(d: Draw, name: str) -> torch.Tensor:
    return d.tensor(d.integer(1, 3), d.integer(2, 4), *(d.integer(2, 4) for _ in range(_space(name))))


@cases(
    "aten.avg_pool1d",
    "aten.avg_pool2d",
    "aten.avg_pool3d",
    "aten.max_pool2d",
    "aten.max_pool2d_with_indices",
    "aten.max_pool3d_with_indices",
)
def pool(d: Draw, name: str) -> OneCall:
    source = _source(d, name)
    if _space(name) > 1 and d.flag():
        source = source[0]
    return one_call(name, source, [d.integer(1, 2) for _ in range(_space(name))])


@cases("aten.mkldnn_max_pool2d")
def pool_of_a_backend(d: Draw, name: str) -> OneCall:
    return OneCall(name, torch.ops.aten.max_pool2d, (_source(d, name), [2, d.integer(1, 2)]), {})


@cases(
    "aten._adaptive_avg_pool2d",
    "aten._adaptive_avg_pool3d",
    "aten.adaptive_max_pool2d",
    "aten.adaptive_max_pool3d",
    "aten.upsample_nearest1d",
    "aten.upsample_nearest2d",
    "aten.upsample_nearest3d",
    "aten._upsample_nearest_exact1d",
    "aten._upsample_nearest_exact2d",
    "aten._upsample_nearest_exact3d",
)
def to_size(d: Draw, name: str) -> OneCall:
    return one_call(name, _source(d, name), [d.integer(1, 3) for _ in range(_space(name))])


@cases(
    "aten.upsample_linear1d",
    "aten.upsample_bilinear2d",
    "aten.upsample_bicubic2d",
    "aten.upsample_trilinear3d",
    "aten._upsample_bilinear2d_aa",
    "aten._upsample_bicubic2d_aa",
)
def interpolate(d: Draw, name: str) -> OneCall:
    return one_call(name, _source(d, name), [d.integer(2, 4) for _ in range(_space(name))], d.flag())


@cases(
    "aten.reflection_pad1d",
    "aten.reflection_pad2d",
    "aten.reflection_pad3d",
    "aten.replication_pad1d",
    "aten.replication_pad2d",
    "aten.replication_pad3d",
)
def pad(d: Draw, name: str) -> OneCall:
    source = _source(d, name)
    if d.flag():
        source = source[0]
    return one_call(name, source, [d.integer(0, 1) for _ in range(2 * _space(name))])


@cases("aten.pixel_shuffle", "aten.pixel_unshuffle", "aten.channel_shuffle", "aten.im2col")
def shuffle(d: Draw, name: str) -> OneCall:
    lead, channels, factor = d.shape(1, 1, most=3), d.integer(2, 4), d.integer(2, 3)
    if name == "aten.pixel_shuffle":
        return one_call(name, d.tensor(*lead, channels * factor**2, 2, d.integer(1, 3)), factor)
    if name == "aten.pixel_unshuffle":
        return one_call(name, d.tensor(*lead, channels, 2 * factor, factor), factor)
    if name == "aten.channel_shuffle":
        return one_call(name, d.tensor(*lead, channels * factor, 2, 2), factor)
    return one_call(name, d.tensor(*lead, channels, 3, 3), [2, d.integer(1, 2)], [1, 1], [0, 0], [1, 1])
