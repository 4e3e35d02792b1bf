"""Rules by family; importing the package registers them all."""

import torch

from moeverify.base.extensions import load_extensions
from moeverify.coupling.rules import (  # noqa: F401
    attention,
    convolution,
    creation,
    indexing,
    linear,
    normalisation,
    pointwise,
    positional,
    reduction,
    shape,
    spatial,
)
from moeverify.coupling.rules.registry import RULES, SPARE, Call, Rule, rule

__all__ = ["RULES", "SPARE", "Call", "Rule", "rule", "rule_for"]


def rule_for(name: str, tags: list[torch.Tag]) -> Rule | None:
    """The rule of an operation: the one registered under its packet name, else one that PyTorch's tags imply.

    Operations that PyTorch tags as pointwise need no registration; a random one among them is frozen.
    """
    known = RULES.get(name)
    if known is None and torch.Tag.pointwise in tags:
        return creation.random if torch.Tag.nondeterministic_seeded in tags else pointwise.pointwise
    return known


load_extensions("rules")
