"""An operation of this package, and the rule that relates its dimensions."""

import torch

from moeverify.coupling.relations import Relations
from moeverify.coupling.rules.registry import Call, rule


@torch.library.custom_op("acme::doubled", mutates_args=())
def doubled(values: torch.Tensor) -> torch.Tensor:
    return values * 2


@doubled.register_fake
def _(values: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(values)


@rule("acme.doubled")
def relate(call: Call, relations: Relations) -> None:
    """Position by position."""
    relations.equal_all(call.dims(0), call.out)
