"""Element by element: every input is broadcast to the output."""

import torch

from moeverify.coupling.relations import Relations
from moeverify.coupling.rules.registry import Call, normalise, rule


@rule(
    "aten._to_copy",
    "aten.clone",
    "aten.detach",
    "aten.alias",
    "aten.copy_",
    "aten.contiguous",
    "aten.lift_fresh",
    "aten.zeros_like",
    "aten.ones_like",
    "aten.empty_like",
    "aten.full_like",
    "aten.native_dropout",
    "aten.zero_",
    "aten.fill_",
    "aten._conj",
    "aten.masked_fill",
    "aten.masked_fill_",
    "aten.bitwise_and",
    "aten.floor_divide",
    "aten.hardswish",
    "aten.hardswish_",
    "aten._prelu_kernel",
    "aten.complex",
    "aten.polar",
)
def pointwise(call: Call, relations: Relations) -> None:
    """All shapes agree after broadcasting, aligned at the last dimension."""
    for output in call.outputs:
        out = call.dims_of(output)
        for tensor in call.tensors():
            relations.equal_all(call.dims_of(tensor), out)


@rule("aten.isin")
def is_in(call: Call, relations: Relations) -> None:
    """Every element is looked up in a set, whose values all matter."""
    elements, test = call.args[:2]
    if isinstance(elements, torch.Tensor):
        relations.equal_all(call.dims(0), call.out)
    if isinstance(test, torch.Tensor):
        relations.freeze_all(call.dims(1), "every value of the set matters")


@rule("aten.view_as_complex", "aten.view_as_real")
def complex_pair(call: Call, relations: Relations) -> None:
    """``[..., 2]`` real to ``[...]`` complex and back."""
    pair, single = (call.dims(0), call.out) if call.name == "aten.view_as_complex" else (call.out, call.dims(0))
    relations.freeze(pair[-1], "real and imaginary part")
    for a, b in zip(pair[:-1], single, strict=True):
        relations.equal(a, b)


@rule("aten.glu")
def glu(call: Call, relations: Relations) -> None:
    """``a * sigmoid(b)`` of the two halves of a dimension."""
    source, out = call.dims(0), call.out
    dim = normalise(call.arg(1, "dim", -1), len(source))
    for position, (a, b) in enumerate(zip(source, out, strict=True)):
        if position == dim:
            relations.segment(a, b, 0)
            relations.segment(a, b, relations.sizes[b])
        else:
            relations.equal(a, b)


@rule("aten.dropout", "aten._fused_dropout")
def dropout(call: Call, relations: Relations) -> None:
    """Output and mask have the input's shape."""
    for output in call.outputs:
        relations.equal_all(call.dims(0), call.dims_of(output))


@rule("aten.log_sigmoid_forward", spare=True)
def log_sigmoid(call: Call, relations: Relations) -> None:
    """The second output is empty, or of the input's shape on an accelerator."""
    for output in call.outputs:
        if output.shape == call.outputs[0].shape:
            relations.equal_all(call.dims(0), call.dims_of(output))


@rule("aten._local_scalar_dense", "aten.equal", "aten.is_nonzero", "aten._assert_async", "aten.sym_size")
def no_relation(call: Call, relations: Relations) -> None:
    """A value read by the program: a tensor of several elements could be read position by position, so freeze."""
    for tensor in call.tensors():
        relations.freeze_all(call.dims_of(tensor), "its values are read by the program")
