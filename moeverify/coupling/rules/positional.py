"""Operations that treat an element by its position: those dimensions are frozen, the others go through."""

from collections.abc import Iterable

from moeverify.coupling.relations import Relations
from moeverify.coupling.rules.registry import Call, dims_set, normalise, rule

BY_POSITION = "what happens to an element depends on its position"


def _freeze_some(call: Call, relations: Relations, dims: Iterable[int]) -> None:
    """Same rank in and out: freeze ``dims``, relate the others."""
    held = set(dims)
    for position, (a, b) in enumerate(zip(call.dims(0), call.out, strict=True)):
        if position in held:
            relations.freeze_all((a, b), BY_POSITION)
        else:
            relations.equal(a, b)


@rule("aten.flip", "aten.roll")
def turn(call: Call, relations: Relations) -> None:
    """Reversed or rotated dimensions; ``roll`` without dimensions rotates the flattened tensor."""
    dims = call.arg(1 if call.name == "aten.flip" else 2, "dims", [])
    _freeze_some(call, relations, dims_set(dims, len(call.out)))


@rule("aten.tril", "aten.triu", "aten.tril_", "aten.triu_")
def triangle(call: Call, relations: Relations) -> None:
    """The last two dimensions decide what stays."""
    rank = len(call.out)
    _freeze_some(call, relations, {rank - 2, rank - 1})


@rule("aten.constant_pad_nd")
def pad(call: Call, relations: Relations) -> None:
    """Pairs of widths from the last dimension on; a dimension that nothing is added to goes through."""
    widths, rank = call.args[1], len(call.out)
    _freeze_some(call, relations, {rank - 1 - i // 2 for i, width in enumerate(widths) if width})


@rule("aten.diagonal")
def diagonal(call: Call, relations: Relations) -> None:
    """Two dimensions become one, at the end."""
    source, out = call.dims(0), call.out
    pair = {normalise(call.arg(2, "dim1", 0), len(source)), normalise(call.arg(3, "dim2", 1), len(source))}
    relations.freeze_all([*(source[i] for i in pair), out[-1]], BY_POSITION)
    for a, b in zip((d for i, d in enumerate(source) if i not in pair), out[:-1], strict=True):
        relations.equal(a, b)


@rule("aten.unfold")
def unfold(call: Call, relations: Relations) -> None:
    """Windows along a dimension, their content in a new last one."""
    source, out = call.dims(0), call.out
    if not source:
        return
    dim = normalise(call.args[1], len(source))
    for position, (a, b) in enumerate(zip(source, out[:-1], strict=True)):
        if position == dim:
            relations.freeze_all((a, b, out[-1]), BY_POSITION)
        else:
            relations.equal(a, b)
