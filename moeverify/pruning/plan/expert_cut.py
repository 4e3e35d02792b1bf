"""Whole routed experts that leave an MoE layer: who stays, and what is renumbered for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ExpertCut:
    """Routed experts that one MoE layer keeps: the numbers ``kept``, ascending, out of ``before`` experts.

    ``children``: names of listed experts in ``container``; empty for fused experts. ``tables``: integer tensors whose
    values are expert ids. ``attributes``: ``(module, name)`` of sizes that hold the number of experts, only in a model
    without configuration. The kept positions of each tensor's expert dimension are in the plan's ``keep``.
    """

    layer: str
    container: str
    before: int
    kept: np.ndarray
    children: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()

    @property
    def after(self) -> int:
        """Experts that stay."""
        return len(self.kept)

    @property
    def removed(self) -> tuple[int, ...]:
        """Experts that go, ascending."""
        return tuple(sorted(set(range(self.before)) - set(self.kept.tolist())))

    def renamed(self, name: str) -> str | None:
        """The name of a parameter or module afterwards; ``None`` if it goes with its expert.

        >>> cut = ExpertCut("mlp", "mlp.experts", 3, np.array([0, 2]), ("0", "1", "2"))
        >>> cut.renamed("mlp.experts.2.up.weight"), cut.renamed("mlp.experts.1.up.weight"), cut.renamed("mlp.gate")
        ('mlp.experts.1.up.weight', None, 'mlp.gate')
        """
        prefix = f"{self.container}." if self.container else ""
        if not self.children or not name.startswith(prefix):
            return name
        child, dot, rest = name.removeprefix(prefix).partition(".")
        if child not in self.children:
            return name
        kept = self.kept.tolist()
        expert = self.children.index(child)
        return f"{prefix}{self.children[kept.index(expert)]}{dot}{rest}" if expert in kept else None


def renamed(name: str, cuts: Iterable[ExpertCut]) -> str | None:
    """Name of a parameter after all cuts; ``None`` if it is removed."""
    for cut in cuts:
        new = cut.renamed(name)
        if new is None:
            return None
        name = new
    return name


@torch.no_grad()
def remove_experts(model: nn.Module, cuts: Iterable[ExpertCut]) -> None:
    """Shorten lists of experts, renumber who stays, and rewrite tables of expert ids, in place.

    The dimensions that count experts have been cut before.
    """
    tensors = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    for cut in cuts:
        if cut.children:
            _shorten(model.get_submodule(cut.container), cut)
        for name in cut.tables:
            table = tensors[name]
            if table.device.type != "meta":
                table.copy_(renumbered(table, cut.kept, cut.before))
        for path, attribute in cut.attributes:
            setattr(model.get_submodule(path), attribute, cut.after)


def _shorten(container: nn.Module, cut: ExpertCut) -> None:
    experts = [container._modules[name] for name in cut.children]
    numbers = _own_numbers([e for e in experts if e is not None])
    for name in cut.children:
        del container._modules[name]
    for new, old in enumerate(cut.kept.tolist()):
        expert = experts[old]
        container._modules[cut.children[new]] = expert
        for path, attribute in numbers:
            setattr(expert.get_submodule(path), attribute, new)  # type: ignore[union-attr]


def _own_numbers(experts: list[nn.Module]) -> list[tuple[str, str]]:
    """Attributes ``(module inside the expert, name)`` in which every expert holds its own number."""
    held = [
        {
            (path, name): value
            for path, module in expert.named_modules()
            for name, value in vars(module).items()
            if type(value) is int
        }
        for expert in experts
    ]
    return [key for key in held[0] if all(one.get(key) == number for number, one in enumerate(held))]


def renumbered(table: torch.Tensor, kept: np.ndarray, before: int) -> torch.Tensor:
    """A table of expert ids ``[..., k]`` after a removal: kept experts under their new numbers.

    An entry that names a removed expert takes the next kept one, in ascending order from there and round again. It
    skips those that its row names already, so that the ids of a row stay distinct.

    >>> renumbered(torch.tensor([[0, 1], [2, 3], [1, 2]]), np.array([0, 2, 3]), 4).tolist()
    [[0, 1], [1, 2], [2, 1]]
    """
    count = len(kept)
    numbers = torch.full((before,), -1, dtype=torch.int64)
    numbers[torch.as_tensor(kept)] = torch.arange(count)
    following = torch.as_tensor(np.searchsorted(kept, np.arange(before))) % count
    old = table.detach().cpu().long().reshape(-1, table.shape[-1] if table.dim() > 1 else 1)
    new = numbers[old]
    for slot in range(old.shape[1]):
        for step in range(count):
            rows = (new[:, slot] < 0).nonzero()[:, 0]
            if not len(rows):
                break
            wanted = (following[old[rows, slot]] + step) % count
            free = rows[~(new[rows] == wanted[:, None]).any(1)]
            new[free, slot] = (following[old[free, slot]] + step) % count
    return new.reshape(table.shape).to(table)
