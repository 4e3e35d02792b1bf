"""Reductions consume a dimension; order-dependent ones freeze it."""

from moeverify.coupling.relations import Relations
from moeverify.coupling.rules.registry import Call, dims_set, normalise, rule


def _pass_through(call: Call, relations: Relations, reduced: set[int]) -> None:
    """Relate the dimensions that a reduction leaves, with or without ``keepdim``."""
    source = call.dims(0)
    rest = [d for i, d in enumerate(source) if i not in reduced]
    relations.summed([source[i] for i in reduced], rest)
    for output in call.outputs:
        out = call.dims_of(output)
        kept = [d for i, d in enumerate(out) if i not in reduced] if len(out) == len(source) else list(out)
        for a, b in zip(rest, kept, strict=True):
            relations.equal(a, b)


def _freeze_reduced(call: Call, relations: Relations, reduced: set[int]) -> None:
    """Freeze what is reduced, relate the rest."""
    source = call.dims(0)
    relations.freeze_all([source[i] for i in reduced], f"{call.name} over this dimension")
    _pass_through(call, relations, reduced)


@rule("aten.sum", "aten.mean", "aten.nansum", "aten.count_nonzero")
def consume(call: Call, relations: Relations) -> None:
    """Sums and means: the dimension ends here, each position counts for itself."""
    _pass_through(call, relations, dims_set(call.arg(1, "dim", None), len(call.dims(0))))


@rule("aten.linalg_vector_norm", "aten.norm")
def norm(call: Call, relations: Relations) -> None:
    """A norm is a sum over positions unless its order is negative: then a zero decides it."""
    reduced = dims_set(call.arg(2, "dim", None), len(call.dims(0)))
    order = call.arg(1, "ord", None)
    if order is not None and order < 0:
        _freeze_reduced(call, relations, reduced)
    else:
        _pass_through(call, relations, reduced)


@rule(
    "aten.amax",
    "aten.amin",
    "aten.max",
    "aten.min",
    "aten.prod",
    "aten.var",
    "aten.var_mean",
    "aten.std",
    "aten.std_mean",
    "aten.any",
    "aten.all",
    "aten.logsumexp",
    "aten.argmax",
    "aten.argmin",
    "aten.median",
    "aten.nanmedian",
)
def extreme(call: Call, relations: Relations) -> None:
    """Removing a position could change the result in a way that no mask reproduces: frozen."""
    source = call.dims(0)
    if len(call.args) > 1 and hasattr(call.args[1], "dim"):  # max(a, b): element by element
        relations.equal_all(source, call.out)
        relations.equal_all(call.dims(1), call.out)
        return
    _freeze_reduced(call, relations, dims_set(call.arg(1, "dim", None), len(source)))


@rule("aten.kthvalue", "aten.mode")
def order_statistic(call: Call, relations: Relations) -> None:
    """``kthvalue(x, k, dim)``, ``mode(x, dim)``; by default along the last dimension."""
    position = 2 if call.name == "aten.kthvalue" else 1
    _freeze_reduced(call, relations, dims_set(call.arg(position, "dim", -1), len(call.dims(0))))


@rule("aten.aminmax")
def extremes(call: Call, relations: Relations) -> None:
    """Smallest and largest value, its dimension by keyword."""
    _freeze_reduced(call, relations, dims_set(call.kwargs.get("dim"), len(call.dims(0))))


@rule(
    "aten._softmax",
    "aten._log_softmax",
    "aten._safe_softmax",
    "aten.cumsum",
    "aten.cumprod",
    "aten.logcumsumexp",
    "aten.cummax",
    "aten.cummin",
)
def ordered(call: Call, relations: Relations) -> None:
    """Every position of the dimension depends on the others: frozen."""
    source = call.dims(0)
    if source:
        dim = normalise(call.args[1], len(source))
        relations.freeze(source[dim], f"{call.name} over this dimension")
        relations.summed(source[dim : dim + 1], (*source[:dim], *source[dim + 1 :]))
    for output in call.outputs:
        relations.equal_all(source, call.dims_of(output))
