"""Reductions consume a dimension; order-dependent ones freeze it."""

from moeverify.coupling.dims import Relations
from moeverify.coupling.rules.registry import Call, dims_set, normalise, rule


def _pass_through(call: Call, relations: Relations, reduced: set[int]) -> None:
    """Relate the dimensions that a reduction leaves, with or without ``keepdim``."""
    source = call.dims(0)
    for output in call.outputs:
        out = call.dims_of(output)
        rest = [d for i, d in enumerate(source) if i not in reduced]
        kept = [d for i, d in enumerate(out) if i not in reduced] if len(out) == len(source) else list(out)
        for a, b in zip(rest, kept, strict=True):
            relations.equal(a, b)


@rule("aten.sum", "aten.mean", "aten.linalg_vector_norm")
def consume(call: Call, relations: Relations) -> None:
    """Sums, means and norms: the dimension ends here, each position counts for itself."""
    position = 2 if call.name == "aten.linalg_vector_norm" else 1
    _pass_through(call, relations, dims_set(call.arg(position, "dim", None), len(call.dims(0))))


@rule(
    "aten.amax",
    "aten.amin",
    "aten.max",
    "aten.min",
    "aten.prod",
    "aten.var",
    "aten.var_mean",
    "aten.any",
    "aten.all",
)
def extreme(call: Call, relations: Relations) -> None:
    """Removing a position could change the result in a way that no mask reproduces: frozen."""
    source = call.dims(0)
    if len(call.args) > 1 and hasattr(call.args[1], "dim"):  # max(a, b): element by element
        relations.equal_all(source, call.out)
        relations.equal_all(call.dims(1), call.out)
        return
    reduced = dims_set(call.arg(1, "dim", None), len(source))
    relations.freeze_all([source[i] for i in reduced], f"{call.name} over this dimension")
    _pass_through(call, relations, reduced)


@rule(
    "aten._softmax",
    "aten._log_softmax",
    "aten._safe_softmax",
    "aten.cumsum",
    "aten.cumprod",
    "aten.logcumsumexp",
)
def ordered(call: Call, relations: Relations) -> None:
    """Every position of the dimension depends on the others: frozen."""
    source = call.dims(0)
    relations.freeze(source[normalise(call.args[1], len(source))], f"{call.name} over this dimension")
    relations.equal_all(source, call.out)
