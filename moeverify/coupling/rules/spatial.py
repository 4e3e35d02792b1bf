"""Pooling, resampling and padding of images and signals: channels go through, space is frozen."""

import re

from moeverify.coupling.relations import Relations
from moeverify.coupling.rules.registry import Call, rule

IN_SPACE = "neighbours in space are combined"


@rule(
    "aten.avg_pool1d",
    "aten.avg_pool2d",
    "aten.avg_pool3d",
    "aten._adaptive_avg_pool2d",
    "aten._adaptive_avg_pool3d",
    "aten.max_pool2d",
    "aten.mkldnn_max_pool2d",
    "aten.max_pool2d_with_indices",
    "aten.max_pool3d_with_indices",
    "aten.adaptive_max_pool2d",
    "aten.adaptive_max_pool3d",
    "aten.upsample_nearest1d",
    "aten.upsample_nearest2d",
    "aten.upsample_nearest3d",
    "aten._upsample_nearest_exact1d",
    "aten._upsample_nearest_exact2d",
    "aten._upsample_nearest_exact3d",
    "aten.upsample_linear1d",
    "aten.upsample_bilinear2d",
    "aten.upsample_bicubic2d",
    "aten.upsample_trilinear3d",
    "aten._upsample_bilinear2d_aa",
    "aten._upsample_bicubic2d_aa",
    "aten.reflection_pad1d",
    "aten.reflection_pad2d",
    "aten.reflection_pad3d",
    "aten.replication_pad1d",
    "aten.replication_pad2d",
    "aten.replication_pad3d",
    spare=True,
)
def per_channel(call: Call, relations: Relations) -> None:
    """``[..., space]`` to ``[..., other space]``; the name ends in the number of spatial dimensions."""
    space = int(re.findall(r"(\d)d", call.name)[0])
    source = call.dims(0)
    for output in call.outputs:
        out = call.dims_of(output)
        relations.freeze_all((*source[-space:], *out[-space:]), IN_SPACE)
        for a, b in zip(source[:-space], out[:-space], strict=True):
            relations.equal(a, b)


def _shuffle(many: int, few: int, relations: Relations) -> None:
    """``many`` channels hold each of ``few`` a fixed number of times, side by side."""
    (copies,) = relations.new_dims([relations.sizes[many] // relations.sizes[few]])
    relations.freeze(copies, "channels that become places in space")
    relations.product(many, (few, copies))


@rule("aten.pixel_shuffle", "aten.pixel_unshuffle")
def pixel_shuffle(call: Call, relations: Relations) -> None:
    """``[..., c * r * r, h, w]`` to ``[..., c, h * r, w * r]`` and back."""
    source, out = call.dims(0), call.out
    relations.freeze_all((*source[-2:], *out[-2:]), IN_SPACE)
    for a, b in zip(source[:-3], out[:-3], strict=True):
        relations.equal(a, b)
    many, few = (source[-3], out[-3]) if call.name == "aten.pixel_shuffle" else (out[-3], source[-3])
    _shuffle(many, few, relations)


@rule("aten.im2col")
def im2col(call: Call, relations: Relations) -> None:
    """``[..., c, h, w]`` to ``[..., c * kernel, places]``."""
    source, out = call.dims(0), call.out
    relations.freeze_all((*source[-2:], out[-1]), IN_SPACE)
    for a, b in zip(source[:-3], out[:-2], strict=True):
        relations.equal(a, b)
    _shuffle(out[-2], source[-3], relations)


@rule("aten.channel_shuffle")
def channel_shuffle(call: Call, relations: Relations) -> None:
    """``[n, g * c, ...]`` read as ``[g, c]`` and written as ``[c, g]``; the number of groups is the program's."""
    source, out = call.dims(0), call.out
    groups, inner = relations.new_dims([call.args[1], relations.sizes[source[1]] // call.args[1]])
    relations.freeze(groups, "the number of groups is fixed in the program")
    relations.product(source[1], (groups, inner))
    relations.product(out[1], (inner, groups))
    for position, (a, b) in enumerate(zip(source, out, strict=True)):
        if position != 1:
            relations.equal(a, b)
