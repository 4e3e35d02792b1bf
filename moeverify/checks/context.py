"""What a check may look at: the original, the pruned model, and what can be recovered from the two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from moeverify.checks.kept import Kept, recover_kept
from moeverify.roles import FoundRoles, find_roles
from moeverify.subjects import Pruned


@dataclass
class Context:
    """One case after the subject has pruned.

    ``original`` is an untouched copy, ``pruned`` the model that the subject changed in place, ``outcome`` what it
    says of its groups (empty for a plain function), ``example_inputs`` those of the source.
    """

    source: str
    original: nn.Module
    pruned: nn.Module
    example_inputs: Any
    outcome: Pruned
    pruning_ratio: float
    seed: int
    dtype: str
    shared: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def roles(self) -> FoundRoles:
        """Roles found in the original model."""
        return find_roles(self.original)

    @cached_property
    def kept(self) -> Mapping[tuple[str, int], Kept]:
        """Which positions of each parameter dimension were kept, recovered from the values alone."""
        return recover_kept(self.original, self.pruned)
