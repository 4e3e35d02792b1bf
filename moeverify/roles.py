"""Who is a routed expert, a router, a shared expert: by name and structure, or as the user says (G4-G6, G13)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Roles:
    """Naming rules, as regular expressions searched in the last part of a module's path.

    ``experts`` names the container of the routed experts (a ``ModuleList`` or a module of fused parameters),
    ``routers`` and ``shared_experts`` the modules themselves.
    """

    experts: str = r"^(experts?|expert_list|expert_modules|moe_experts)$"
    routers: str = r"^(gate|router|gating|gate_network|router_gate|wg|shared_expert_gate)$"
    shared_experts: str = r"^(shared_experts?|shared_mlp|residual_mlp|shared_expert_mlp)$"


@dataclass(frozen=True)
class MoELayer:
    """One MoE layer: paths of its modules.

    For listed experts ``experts`` are module paths; for fused ones they are ``container[number]``.
    """

    name: str
    container: str
    experts: tuple[str, ...]
    fused: bool
    routers: tuple[str, ...]
    shared_experts: tuple[str, ...]


@dataclass(frozen=True)
class FoundRoles:
    """All MoE layers of a model, in the order of its modules."""

    layers: tuple[MoELayer, ...]

    @property
    def experts(self) -> tuple[str, ...]:
        """Every routed expert."""
        return tuple(e for layer in self.layers for e in layer.experts)

    @property
    def routers(self) -> tuple[str, ...]:
        """Every router."""
        return tuple(r for layer in self.layers for r in layer.routers)

    @property
    def shared_experts(self) -> tuple[str, ...]:
        """Every shared expert."""
        return tuple(s for layer in self.layers for s in layer.shared_experts)

    def boundary(self, name: str) -> str | None:
        """The routed expert that a module or parameter path lies in: ``None`` outside, the container if fused."""
        for layer in self.layers:
            if layer.fused and _inside(name, layer.container):
                return layer.container
            for expert in () if layer.fused else layer.experts:
                if _inside(name, expert):
                    return expert
        return None

    def shared(self, name: str) -> str | None:
        """The shared expert that a path lies in, if any."""
        return next((s for s in self.shared_experts if _inside(name, s)), None)


def _inside(name: str, container: str) -> bool:
    return name == container or name.startswith(container + ".")


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def fused_expert_count(module: nn.Module) -> int:
    """Number of experts of a module whose own parameters are stacked ``[experts, ..., ...]``; 0 if it is none."""
    stacked = [p for p in module.parameters(recurse=False) if p.dim() == 3]
    counts = {p.shape[0] for p in stacked}
    return counts.pop() if len(stacked) >= 2 and len(counts) == 1 else 0


def find_roles(model: nn.Module, roles: Roles | None = None) -> FoundRoles:
    """Find the MoE layers of ``model``."""
    roles = roles or Roles()
    modules = dict(model.named_modules())
    layers = []
    for name, module in modules.items():
        if not name or not re.search(roles.experts, _last(name)):
            continue
        fused = fused_expert_count(module)
        if isinstance(module, nn.ModuleList | nn.ModuleDict) and len(module) > 1:
            experts = tuple(f"{name}.{child}" for child, _ in module.named_children())
        elif fused > 1:
            experts = tuple(f"{name}[{number}]" for number in range(fused))
        else:
            continue
        parent = name.rpartition(".")[0]
        siblings = [n for n in modules if n and n != name and n.rpartition(".")[0] == parent]
        layers.append(
            MoELayer(
                name=parent,
                container=name,
                experts=experts,
                fused=fused > 1,
                routers=tuple(n for n in siblings if re.search(roles.routers, _last(n))),
                shared_experts=tuple(n for n in siblings if re.search(roles.shared_experts, _last(n))),
            )
        )
    return FoundRoles(tuple(layers))
