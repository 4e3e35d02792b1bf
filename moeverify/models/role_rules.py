"""Naming rules: which names mean routed experts, routers and shared experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from torch import nn

from moeverify.base.patterns import check_pattern, matches
from moeverify.errors import UsageError

Rule = str | Callable[[str, nn.Module], bool]


@dataclass(frozen=True)
class Roles:
    """Naming rules: each a regular expression searched in the last part of a module's path, or a function of the whole
    path and the module.

    Args:
        experts: container of the routed experts: a ``ModuleList``, or a module that holds the parameters of all.
        routers: the routers themselves.
        shared_experts: the shared experts themselves.

    Raises:
        UsageError: a pattern is not a regular expression.

    Example::

        mv.Roles(experts="^bank$", routers=lambda path, module: path.endswith(".moe.choose"))

    """

    experts: Rule = r"^(experts?|expert_list|expert_modules|moe_experts)$"
    routers: Rule = r"^(gate|router|gating|gate_network|router_gate|moe_gate|wg|shared_expert_gate)$"
    shared_experts: Rule = r"^(shared_(experts?|mlp|expert_mlp)|residual_mlp)$"

    def __post_init__(self) -> None:
        for role in ("experts", "routers", "shared_experts"):
            rule = getattr(self, role)
            if isinstance(rule, str):
                try:
                    check_pattern(rule)
                except ValueError as error:
                    raise UsageError(f"{role}={rule[:200]!r} cannot be used: {error}") from error
            elif not callable(rule):
                raise UsageError(f"{role} must be a regular expression or a function of (path, module)")

    def patterns(self) -> dict[str, str]:
        """The rules that are not the usual ones, as they can be written down.

        Raises ``UsageError`` for a rule that is a function.
        """
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        if functions := [name for name, rule in given.items() if not isinstance(rule, str)]:
            raise UsageError(f"{functions[0]} is a function, which cannot be sent to another process; give a pattern")
        return given


def fits(rule: Rule, path: str, module: nn.Module) -> bool:
    """Whether a rule names a module. Raises ``UsageError`` for a pattern that takes too long."""
    if not isinstance(rule, str):
        return bool(rule(path, module))
    name = path.rpartition(".")[2]
    try:
        return matches(rule, name)
    except TimeoutError as error:
        raise UsageError(
            f"the pattern {rule!r} takes too long on {name[:80]!r}; leave out repeats within repeats"
        ) from error
