"""A subject by its name."""

from __future__ import annotations

import os
from pathlib import Path

from moeverify.base import forms
from moeverify.base.imports import find_attribute
from moeverify.errors import UsageError
from moeverify.models.roles import Roles
from moeverify.subjects.folders import PREFIX, command
from moeverify.subjects.moe import prune_moe, prune_moe_experts
from moeverify.subjects.protocol import Subject, adapt
from moeverify.subjects.torch_pruning import fork_package, prune_stock, use_fork

BUILT_IN: dict[str, Subject] = {"moe": prune_moe, "moe-experts": prune_moe_experts, "torch-pruning": prune_stock}
FORMS = forms.SUBJECTS


def subject_kind(name: str) -> str:
    """The kind of a subject's name: ``built-in``, ``fault``, ``command``, ``fork`` or ``function``.

    Nothing is imported. Raises ``UsageError`` for a name of another form, or a fault that does not exist.
    """
    if name.startswith(PREFIX):
        command(name.removeprefix(PREFIX))
        return "command"
    if name in BUILT_IN:
        return "built-in"
    if name.startswith("fault:"):
        from moeverify.subjects.faults import find_fault

        find_fault(name.removeprefix("fault:"))
        return "fault"
    folder = Path(name).expanduser()
    if folder.is_dir() and (os.sep in name or fork_package(folder) is not None):
        return "fork"
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise UsageError(f"unknown subject {name!r}; use {FORMS}")
    return "function"


def load_subject(name: str, roles: Roles | None = None) -> Subject:
    """A subject by name: see ``FORMS``. ``roles`` name the experts for subjects that have such a parameter.

    A fork takes the place of ``torch_pruning`` in this process. Raises ``UsageError`` for an unknown name,
    ``SourceError`` if it cannot be imported.
    """
    kind = subject_kind(name)
    if kind == "built-in":
        return adapt(BUILT_IN[name], roles)
    if kind == "command":
        return adapt(command(name.removeprefix(PREFIX)), roles)
    if kind == "fault":
        from moeverify.subjects.faults import find_fault

        return adapt(find_fault(name.removeprefix("fault:")).prune, roles)
    if kind == "fork":
        return adapt(use_fork(Path(name).expanduser()), roles)
    subject = find_attribute(name)
    if not callable(subject):
        raise UsageError(
            f"{name} is not a function prune(model, example_inputs, *, pruning_ratio, seed) or "
            "prune(base_folder, out_folder, *, pruning_ratio, seed)"
        )
    return adapt(subject, roles)
