"""Roles of modules: routed expert, router, shared expert; by name and structure, or by the user's rules."""

from __future__ import annotations

from torch import nn

from moeverify.models.moe_layer import FoundRoles as FoundRoles
from moeverify.models.moe_layer import Layout as Layout
from moeverify.models.moe_layer import MoELayer as MoELayer
from moeverify.models.role_rules import Roles as Roles
from moeverify.models.role_rules import Rule as Rule
from moeverify.models.role_search import RoleSearch


def find_roles(model: nn.Module, roles: Roles | FoundRoles | None = None) -> FoundRoles:
    """Find the MoE layers of ``model``: containers named as experts first, then what has the structure of one.

    Structure: a list of modules that are all alike, or stacked parameters of one size. Beside it stands a scorer (one
    output for each), a name with *expert* in it, or an attribute such as ``num_experts`` of that value.

    Args:
        model: the model to search.
        roles: rules that name experts, the usual ones if not given. Roles that were found before are returned.

    Returns:
        The layers with their experts, routers and shared experts, each with the evidence for it.

    Raises:
        UsageError: a pattern of ``roles`` takes too long.

    Example::

        mv.find_roles(model, mv.Roles(experts="^specialists$")).experts

    """
    return roles if isinstance(roles, FoundRoles) else RoleSearch(model, roles or Roles()).run()
