"""Rules by family; importing the package registers them all."""

from moeverify.coupling.rules import (  # noqa: F401
    attention,
    convolution,
    creation,
    indexing,
    linear,
    normalisation,
    pointwise,
    reduction,
    shape,
)
from moeverify.coupling.rules.registry import RULES, Call, rule

__all__ = ["RULES", "Call", "rule"]
