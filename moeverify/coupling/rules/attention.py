"""Fused attention kernels: ``query, key, value`` of ``[batch, heads, length, head_dim]``."""

from moeverify.coupling.relations import Relations
from moeverify.coupling.rules.registry import Call, rule

# The others pad the head dimension to what they take and then give the scale of the size before.
_SCALE_AS_GIVEN = (
    "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_efficient_attention",
    "aten.scaled_dot_product_attention",
)


@rule(
    "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_flash_attention",
    "aten._scaled_dot_product_efficient_attention",
    "aten._scaled_dot_product_attention_math",
    "aten._scaled_dot_product_cudnn_attention",
    "aten.scaled_dot_product_attention",
    spare=True,
)
def attention(call: Call, relations: Relations) -> None:
    """Heads go together; the head dimension of query and key is summed over.

    It is frozen where the kernel works out the softmax scale from it; a scale that the program gives is a number like
    any other. With fewer key than query heads (``enable_gqa``) query head ``h`` uses key head ``h // group``.
    """
    query, key, value, out = call.dims(0), call.dims(1), call.dims(2), call.out
    if call.name in _SCALE_AS_GIVEN and call.kwargs.get("scale") is not None:
        relations.equal(query[-1], key[-1])
    else:
        relations.freeze_all((query[-1], key[-1]), "the softmax scale follows the head dimension")
    relations.freeze_all((query[-2], key[-2], value[-2], out[-2]), "softmax over positions")
    relations.equal(value[-1], out[-1])
    for a, b, c, d in zip(query[:-2], key[:-2], value[:-2], out[:-2], strict=True):
        relations.equal(a, d)
        relations.equal(b, c)
        many, few = relations.sizes[a], relations.sizes[b]
        if few > 1 and many != few and many % few == 0:
            (group,) = relations.new_dims([many // few])
            relations.product(a, (b, group))
        else:
            relations.equal(a, b)
    for tensor in call.tensors()[3:]:  # a mask or a bias, broadcast to [..., length, length]
        mask = call.dims_of(tensor)
        relations.freeze_all(mask[-2:], "softmax over positions")
        relations.equal_all(mask[:-2], query[:-2])
    for tensor in call.outputs[1:]:  # the log-sum-exp of [batch, heads, length], random state
        statistic = call.dims_of(tensor)
        if len(statistic) == len(query) - 1:
            relations.equal_all(statistic[:-1], query[:-2])
            relations.freeze(statistic[-1], "softmax over positions")
        else:
            relations.freeze_all(statistic, "state of the attention kernel")
