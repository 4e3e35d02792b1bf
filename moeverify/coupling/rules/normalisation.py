"""Fused normalisations: weight and bias go with the last dimensions; statistics consume them."""

from moeverify.coupling.dims import Relations
from moeverify.coupling.rules.registry import Call, rule


@rule("aten.native_layer_norm", "aten._fused_rms_norm")
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
