"""Tensors out of nothing. A constant fill has no positions to mind; a counted or random one does."""

from moeverify.coupling.dims import Relations
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


@rule("aten.arange", "aten.linspace", "aten.eye", "aten.rand", "aten.randn", "aten.randint", "aten.randperm")
def counted(call: Call, relations: Relations) -> None:
    """The value depends on the position: removing one would renumber the others."""
    relations.freeze_all(call.out, "values are generated from the position")


@rule(
    "aten.uniform_",
    "aten.normal_",
    "aten.bernoulli_",
    "aten.exponential_",
    "aten.multinomial",
    "aten.rand_like",
)
def random(call: Call, relations: Relations) -> None:
    """Random values follow the number of elements."""
    for output in call.outputs:
        relations.freeze_all(call.dims_of(output), "random values follow the number of elements")
