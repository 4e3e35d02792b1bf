"""Naming rules of experts, routers and shared experts: from a TOML file or single options, and written for a model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from torch import nn

from moeverify.base.documents import parse_document, read_text
from moeverify.errors import UsageError
from moeverify.models.roles import FoundRoles, Roles, find_roles

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


def written_roles(model: nn.Module, found: FoundRoles) -> str:
    """A file with which ``model`` is given the roles ``found``, each with its evidence, ready to edit.

    Rules name the last part of a path. Where no such rule gives the same experts, the file has them as comments: what
    is found by structure needs none.
    """
    rules = {
        "experts": _pattern(model, (layer.container for layer in found.layers)),
        "routers": _pattern(model, found.routers),
        "shared_experts": _pattern(model, found.shared_experts),
    }
    rules = {kind: pattern for kind, pattern in rules.items() if pattern}
    same = bool(rules) and find_roles(model, Roles(**rules)).experts == found.experts
    lines = ["[roles]" if same else "# found by structure; rules would not give the same experts"]
    lines += [f"{'' if same else '# '}{kind} = {_quoted(pattern)}" for kind, pattern in rules.items()]
    lines += [f"# {path}: {why}" for layer in found.layers for path, why in layer.evidence.items()]
    return "\n".join(lines) + "\n"


def _pattern(model: nn.Module, paths: Iterable[str]) -> str:
    """Regular expression for the last parts of the paths; a path that ends in a number is named by its list."""
    names: dict[str, None] = {}
    for path in paths:
        around = path.rpartition(".")[0]
        if around and isinstance(model.get_submodule(around), nn.ModuleList | nn.ModuleDict):
            path = around if path.rpartition(".")[2].isdigit() else path
        names[re.escape(path.rpartition(".")[2])] = None
    return "" if not names else f"^{next(iter(names))}$" if len(names) == 1 else f"^({'|'.join(names)})$"


def _quoted(pattern: str) -> str:
    """A pattern as a TOML string that is taken as it is."""
    return "'" + pattern + "'"
