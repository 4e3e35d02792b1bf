"""Naming rules of experts, routers and shared experts from a TOML file or single options."""

from __future__ import annotations

from pathlib import Path

from moeverify.base.documents import parse_document, read_text
from moeverify.errors import UsageError
from moeverify.models.roles import Roles

_RULES = ("experts", "routers", "shared_experts")


def load_roles(path: Path | str) -> dict[str, str]:
    """The patterns under ``[roles]`` in a TOML file.

    Raises ``UsageError`` if the file cannot be read or says something else. Example of a file::

        [roles]
        experts = "^bank$"          # the container of the routed experts
        routers = "^(chooser|gate)$"
        shared_experts = "^common$"
    """
    data = parse_document(read_text(path, error=UsageError), name=f"{path}", language="TOML", error=UsageError)
    found = data.get("roles")
    if not isinstance(found, dict) or not found:
        raise UsageError(f"{path} has no [roles] table with {', '.join(_RULES)}")
    for key, value in found.items():
        if key not in _RULES:
            raise UsageError(f"{path}: [roles] knows {', '.join(_RULES)}, not {key[:80]!r}")
        if not isinstance(value, str):
            raise UsageError(f"{path}: {key} must be a regular expression in quotes, not {str(value)[:80]!r}")
    return found


def roles_from(
    path: Path | str | None = None,
    *,
    experts: str | None = None,
    routers: str | None = None,
    shared_experts: str | None = None,
) -> Roles | None:
    """Roles from a file and single patterns, which win over the file; ``None`` if nothing is given."""
    rules = load_roles(path) if path is not None else {}
    given = {"experts": experts, "routers": routers, "shared_experts": shared_experts}
    rules |= {key: value for key, value in given.items() if value is not None}
    return Roles(**rules) if rules else None
