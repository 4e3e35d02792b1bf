"""Convolutions of any rank, grouped, depthwise and transposed."""

from moeverify.coupling.relations import Relations
from moeverify.coupling.rules.registry import Call, rule


@rule("aten.convolution", "aten._convolution")
def convolution(call: Call, relations: Relations) -> None:
    """``[n, i, ...], [o, i / groups, ...], [o] -> [n, o, ...]``; transposed: weight ``[i, o / groups, ...]``.

    Space is frozen. One group per input channel (depthwise): a channel is a group and goes with it. Otherwise the
    number of groups is fixed in the program, and the same channels of every group go together.
    """
    source, weight, out = call.dims(0), call.dims(1), call.out
    transposed, groups = call.args[6], call.args[8]
    relations.freeze_all((*source[2:], *weight[2:], *out[2:]), "neighbours in space are combined")
    relations.equal(source[0], out[0])
    if call.args[2] is not None:
        relations.equal(call.dims(2)[0], out[1])
    taken, given = (weight[0], weight[1]) if transposed else (weight[1], weight[0])
    if groups == 1:
        relations.equal(source[1], taken)
        relations.equal(given, out[1])
        return
    sizes = relations.sizes
    group, taken_each, given_each = relations.new_dims([groups, sizes[source[1]] // groups, sizes[out[1]] // groups])
    if groups != sizes[source[1]]:
        relations.freeze(group, "the number of groups is fixed in the program")
    relations.product(source[1], (group, taken_each))
    relations.product(out[1], (group, given_each))
    if transposed:
        relations.product(weight[0], (group, taken_each))
        relations.equal(weight[1], given_each)
    else:
        relations.product(weight[0], (group, given_each))
        relations.equal(weight[1], taken_each)
