"""Element by element: every input is broadcast to the output."""

from moeverify.coupling.dims import Relations
from moeverify.coupling.rules.registry import Call, rule


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
    "aten.isin",
    "aten.bitwise_and",
    "aten.floor_divide",
)
def pointwise(call: Call, relations: Relations) -> None:
    """All shapes agree after broadcasting, aligned at the last dimension."""
    for output in call.outputs:
        out = call.dims_of(output)
        for tensor in call.tensors():
            relations.equal_all(call.dims_of(tensor), out)


@rule("aten.dropout", "aten._fused_dropout")
def dropout(call: Call, relations: Relations) -> None:
    """Output and mask have the input's shape."""
    for output in call.outputs:
        relations.equal_all(call.dims(0), call.dims_of(output))


@rule("aten._local_scalar_dense", "aten.equal", "aten.is_nonzero", "aten._assert_async", "aten.sym_size")
def no_relation(call: Call, relations: Relations) -> None:
    """A value read by the program: a tensor of several elements could be read position by position, so freeze."""
    for tensor in call.tensors():
        relations.freeze_all(call.dims_of(tensor), "its values are read by the program")
