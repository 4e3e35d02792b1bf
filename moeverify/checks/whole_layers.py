"""Whole layers that a subject removed. Which of them stayed is not recovered here, so no tensor can be compared."""

from __future__ import annotations

from torch import nn

from moeverify.checks.context import Context
from moeverify.checks.registry import Finding, inconclusive

# Checks that look at the pruned model alone.
OF_THE_RESULT = frozenset(
    {"terminates", "shapes", "deterministic", "config-in-step", "kernel-ready", "reload", "quality"}
)


def shortened_lists(context: Context) -> dict[str, tuple[int, int]]:
    """Lists of modules, other than of experts, that lost entries: how many they had and have."""
    experts = {layer.container for layer in context.roles.layers}
    after = {n: len(m) for n, m in context.pruned.named_modules() if isinstance(m, nn.ModuleList)}
    before = {n: len(m) for n, m in context.original.named_modules() if isinstance(m, nn.ModuleList)}
    return {n: (size, after[n]) for n, size in before.items() if n not in experts and after.get(n, size) < size}


def not_comparable(context: Context, check: str) -> Finding | None:
    """Finding of a check that compares tensor by tensor where whole layers are gone; ``None`` where none are."""
    if check in OF_THE_RESULT or not (shortened := shortened_lists(context)):
        return None
    name, (before, after) = next(iter(shortened.items()))
    return inconclusive(
        f"the subject removed {before - after} of {before} layers of {name}; channels and experts are compared, whole "
        "layers are not: remove the layers from the source first, and verify the rest of the pruning on it",
        layers={name: list(sizes) for name, sizes in shortened.items()},
    )
