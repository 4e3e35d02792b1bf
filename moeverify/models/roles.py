"""Who is a routed expert, a router, a shared expert: by name and structure, or as the user says."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from torch import nn

from moeverify.models.moe_layer import FoundRoles as FoundRoles
from moeverify.models.moe_layer import Layout as Layout
from moeverify.models.moe_layer import MoELayer as MoELayer
from moeverify.models.role_rules import Roles as Roles
from moeverify.models.role_rules import Rule as Rule
from moeverify.models.role_search import RoleSearch

_IN_FORCE: ContextVar[Roles | None] = ContextVar("roles", default=None)


@contextlib.contextmanager
def roles_in_force(roles: Roles | None) -> Iterator[None]:
    """Let ``find_roles`` use these rules wherever it is given none, so that a pruner and its checks see the same."""
    token = _IN_FORCE.set(roles)
    try:
        yield
    finally:
        _IN_FORCE.reset(token)


def find_roles(model: nn.Module, roles: Roles | None = None) -> FoundRoles:
    """Find the MoE layers of ``model``: containers named as experts first, then what has the structure of one.

    Without ``roles`` those in force count, or the usual names.

    Structure: a list of modules that are all alike, or stacked parameters of one size, with something that scores them
    (one output for each), a name with *expert* in it, or an attribute such as ``num_experts`` of that value.
    """
    return RoleSearch(model, roles or _IN_FORCE.get() or Roles()).run()
