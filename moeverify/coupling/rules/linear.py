"""Contractions: matrix products and their grouped forms."""

from moeverify.coupling.relations import Relations
from moeverify.coupling.rules.registry import Call, rule

Dims = tuple[int, ...]


def _matrix_product(left: Dims, right: Dims, out: Dims, relations: Relations) -> None:
    """``[..., n, k] @ [..., k, m] -> [..., n, m]``: contraction, free and batch dimensions."""
    relations.equal(left[-1], right[-2])
    relations.equal(left[-2], out[-2])
    relations.equal(right[-1], out[-1])
    relations.equal_all(left[:-2], out[:-2])
    relations.equal_all(right[:-2], out[:-2])
    relations.summed(left[-1:], left[:-1])
    relations.summed(right[-2:-1], (*right[:-2], right[-1]))


@rule("aten.mm", "aten.bmm")
def matrix_product(call: Call, relations: Relations) -> None:
    """``mm``, ``bmm``."""
    _matrix_product(call.dims(0), call.dims(1), call.out, relations)


@rule("aten.addmm", "aten.baddbmm")
def add_matrix_product(call: Call, relations: Relations) -> None:
    """A bias broadcast to the product."""
    relations.equal_all(call.dims(0), call.out)
    _matrix_product(call.dims(1), call.dims(2), call.out, relations)


@rule("aten.mv")
def matrix_vector(call: Call, relations: Relations) -> None:
    """``[n, k] @ [k] -> [n]``."""
    matrix, vector = call.dims(0), call.dims(1)
    relations.equal(matrix[1], vector[0])
    relations.equal(matrix[0], call.out[0])
    relations.summed(matrix[1:], matrix[:1])


@rule("aten.addmv")
def add_matrix_vector(call: Call, relations: Relations) -> None:
    """``[n] + [n, k] @ [k]``."""
    matrix, vector = call.dims(1), call.dims(2)
    relations.equal_all(call.dims(0), call.out)
    relations.equal(matrix[1], vector[0])
    relations.equal(matrix[0], call.out[0])
    relations.summed(matrix[1:], matrix[:1])


@rule("aten.addbmm")
def add_summed_products(call: Call, relations: Relations) -> None:
    """``[n, m] + sum over b of [b, n, k] @ [b, k, m]``: the batch is consumed too."""
    left, right = call.dims(1), call.dims(2)
    relations.equal_all(call.dims(0), call.out)
    relations.equal(left[0], right[0])
    _matrix_product(left[1:], right[1:], call.out, relations)
    relations.summed(left[:1], left[1:2])
    relations.summed(right[:1], right[2:])


@rule("aten.dot", "aten.vdot")
def dot(call: Call, relations: Relations) -> None:
    """``[k] . [k] -> []``."""
    relations.equal(call.dims(0)[0], call.dims(1)[0])


@rule("aten.linear")
def linear(call: Call, relations: Relations) -> None:
    """``[..., k], [m, k], [m] -> [..., m]``."""
    left, weight, out = call.dims(0), call.dims(1), call.out
    relations.equal(left[-1], weight[1])
    relations.equal(weight[0], out[-1])
    relations.equal_all(left[:-1], out[:-1])
    relations.summed(left[-1:], left[:-1])
    relations.summed(weight[1:], weight[:1])
    bias = call.arg(2, "bias")
    if bias is not None:
        relations.equal(call.dims_of(bias)[0], out[-1])


@rule("aten._grouped_mm", "transformers.grouped_mm_fallback")
def grouped_product(call: Call, relations: Relations) -> None:
    """Rows sorted by expert times one matrix an expert: ``[s, k] @ [e, k, m] -> [s, m]``.

    The expert dimension chooses the matrix by offsets and is frozen.
    """
    left, right, out = call.dims(0), call.dims(1), call.out
    if len(left) != 2 or len(right) != 3:
        for tensor in (*call.tensors(), *call.outputs):
            relations.freeze_all(call.dims_of(tensor), "grouped product of an unusual layout")
        return
    relations.equal(left[1], right[1])
    relations.equal(right[2], out[1])
    relations.equal(left[0], out[0])
    relations.summed(left[1:], left[:1])
    relations.summed(right[1:2], (right[0], right[2]))
    relations.freeze(right[0], "experts are chosen by offset")
    if (offsets := call.arg(2, "offs")) is not None:
        relations.freeze_all(call.dims_of(offsets), "experts are chosen by offset")
    if (bias := call.arg(3, "bias")) is not None:
        relations.freeze_all((*call.dims_of(bias), out[1]), "bias of a grouped product")
    relations.freeze(out[0], "rows are grouped by expert")


@rule("aten.linalg_solve_triangular")
def solve_triangular(call: Call, relations: Relations) -> None:
    """``[..., n, n]`` and ``[..., n, k]`` to ``[..., n, k]``; from the right ``[..., k, n]``.

    Substitution goes from row to row: a removed one would be missed by those behind it.
    """
    triangle, known, out = call.dims(0), call.dims(1), call.out
    left = call.arg(3, "left", True)
    solved, free = (-2, -1) if left else (-1, -2)
    relations.freeze_all((*triangle[-2:], known[solved], out[solved]), "rows are solved one after the other")
    relations.equal(known[free], out[free])
    for batch in (triangle[:-2], known[:-2]):
        relations.equal_all(batch, out[:-2])
