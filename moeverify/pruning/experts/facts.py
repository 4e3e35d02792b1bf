"""Facts about whole experts before any is removed: counts, groups, companions and legal numbers by layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from moeverify.errors import MoEVerifyError
from moeverify.models.forward import Example
from moeverify.models.roles import FoundRoles
from moeverify.pruning.experts.removal import ExpertLayout, expert_layout


@dataclass(frozen=True)
class ExpertFacts:
    """One MoE layer: experts, how many a token goes to, groups, what follows the count, and legal numbers."""

    layer: str
    experts: int
    top_k: int
    groups: int
    companions: tuple[str, ...]
    legal: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """The facts as a dictionary for JSON."""
        return {**asdict(self), "companions": list(self.companions), "legal": list(self.legal)}


def expert_facts(model: nn.Module, roles: FoundRoles, example: Example) -> tuple[tuple[ExpertFacts, ...], str]:
    """Facts of every MoE layer, or the reason why no expert can be removed."""
    if not roles.layers:
        return (), ""
    try:
        layout = expert_layout(model, roles, example)
    except MoEVerifyError as error:
        return (), str(error)
    return facts_of(layout), ""


def facts_of(layout: ExpertLayout) -> tuple[ExpertFacts, ...]:
    """Facts of every MoE layer of a layout."""
    facts = []
    for counted in layout.layers:
        rules = layout.topologies[counted.layer.name]
        block = f"{counted.layer.name}."
        companions = tuple(name.removeprefix(block) for name in counted.companions)
        facts.append(
            ExpertFacts(counted.layer.name, counted.count, rules.top_k, rules.groups, companions, tuple(rules.legal()))
        )
    return tuple(facts)
