"""Fused normalisations: weight and bias go with what they scale; statistics consume it."""

from moeverify.coupling.relations import Relations
from moeverify.coupling.rules.registry import Call, rule

BY_RUNNING_STATISTICS = ("aten._native_batch_norm_legit_no_training", "aten._batch_norm_no_update")


@rule("aten.native_layer_norm", "aten._fused_rms_norm", spare=True)
def layer_norm(call: Call, relations: Relations) -> None:
    """``[..., n]``, weight ``[n]``, bias ``[n]`` to ``[..., n]``; the statistics keep the leading dimensions."""
    source = call.dims(0)
    relations.equal_all(source, call.out)
    for tensor in call.tensors()[1:]:
        relations.equal_all(call.dims_of(tensor), call.out)
    lead = len(source) - len(call.args[1])
    for statistic in call.outputs[1:]:
        for a, b in zip(source[:lead], call.dims_of(statistic), strict=False):
            relations.equal(a, b)


@rule(
    "aten.native_batch_norm",
    "aten._native_batch_norm_legit",
    "aten._native_batch_norm_legit_no_training",
    "aten._batch_norm_no_update",
    "aten._batch_norm_with_update",
    "aten.cudnn_batch_norm",
    "aten.miopen_batch_norm",
    spare=True,
)
def batch_norm(call: Call, relations: Relations) -> None:
    """Input ``[n, c, ...]`` with weight, bias and running statistics ``[c]``; in training it averages over all
    dimensions but ``c``.
    """
    source, out = call.dims(0), call.out
    evaluation = call.name in BY_RUNNING_STATISTICS or call.arg(5, "training") is False
    for position, (a, b) in enumerate(zip(source, out, strict=True)):
        if position == 1 or evaluation:
            relations.equal(a, b)
        else:
            relations.freeze_all((a, b), "batch normalisation averages over this dimension")
    for tensor in (*call.tensors()[1:], *call.outputs[1:]):
        dims = call.dims_of(tensor)
        if len(dims) == 1 and relations.sizes[dims[0]] == relations.sizes[out[1]]:
            relations.equal(dims[0], out[1])


@rule("aten.native_group_norm", spare=True)
def group_norm(call: Call, relations: Relations) -> None:
    """``[n, c, ...]``, weight and bias ``[c]``, statistics ``[n, groups]`` over each group and all of space.

    The number of groups is fixed in the program, so the same channels of every group go together.
    """
    source, out, groups = call.dims(0), call.out, call.args[6]
    relations.equal_all(source, out)
    for tensor in call.tensors()[1:]:
        relations.equal(call.dims_of(tensor)[0], source[1])
    group, each = relations.new_dims([groups, relations.sizes[source[1]] // groups])
    if relations.sizes[each] > 1:
        relations.freeze(group, "the number of groups is fixed in the program")
    relations.product(source[1], (group, each))
    for statistic in call.outputs[1:]:
        relations.equal(call.dims_of(statistic)[0], source[0])
        relations.equal(call.dims_of(statistic)[1], group)
