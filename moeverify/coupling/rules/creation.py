"""Tensors out of nothing. A constant fill has no positions to mind; a counted or random one does."""

from moeverify.coupling.relations import Relations
from moeverify.coupling.rules.registry import Call, rule


@rule(
    "aten.zeros",
    "aten.ones",
    "aten.full",
    "aten.empty",
    "aten.scalar_tensor",
    "aten.new_zeros",
    "aten.new_ones",
    "aten.new_full",
    "aten.new_empty",
    "aten.empty_strided",
)
def constant(call: Call, relations: Relations) -> None:
    """Every position holds the same value."""


@rule(
    "aten.arange",
    "aten.linspace",
    "aten.logspace",
    "aten.eye",
    "aten.tril_indices",
    "aten.triu_indices",
    "aten.rand",
    "aten.randn",
    "aten.randint",
    "aten.randperm",
)
def counted(call: Call, relations: Relations) -> None:
    """Freeze results whose values depend on the position, such as ``eye``: a cut would renumber them."""
    relations.freeze_all(call.out, "values are generated from the position")


@rule(
    "aten.uniform_",
    "aten.normal_",
    "aten.bernoulli_",
    "aten.exponential_",
    "aten.cauchy_",
    "aten.geometric_",
    "aten.log_normal_",
    "aten.bernoulli",
    "aten.normal",
    "aten.multinomial",
    "aten.rand_like",
    "aten.randn_like",
    "aten.randint_like",
)
def random(call: Call, relations: Relations) -> None:
    """Random values follow the number of elements: fewer of them would all be others."""
    for tensor in (*call.tensors(), *call.outputs):
        relations.freeze_all(call.dims_of(tensor), "random values follow the number of elements")
