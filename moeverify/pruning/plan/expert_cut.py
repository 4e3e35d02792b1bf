"""Whole routed experts that are removed from an MoE layer: the numbers that stay, and what is renumbered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from moeverify.models.module_lists import ListCut, shorten

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ExpertCut:
    """Routed experts that one MoE layer keeps: the numbers ``kept``, ascending, out of ``before`` experts.

    ``children``: names of listed experts in ``container``; empty for fused experts. ``tables``: integer tensors whose
    values are expert ids. ``attributes``: ``(module, name)`` of sizes that hold the number of experts, only in a model
    without configuration. ``replaced``: for removed experts the kept ones that tables name in their place; others get
    the next kept one. The kept positions of each tensor's expert dimension are in the plan's ``keep``.
    """

    layer: str
    container: str
    before: int
    kept: np.ndarray
    children: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()
    replaced: Mapping[int, int] = field(default_factory=dict)

    @property
    def after(self) -> int:
        """Number of experts that stay."""
        return len(self.kept)

    @property
    def removed(self) -> tuple[int, ...]:
        """Numbers of the removed experts, ascending."""
        return tuple(sorted(set(range(self.before)) - set(self.kept.tolist())))

    @property
    def modules(self) -> ListCut:
        """The cut of the list that holds the experts' modules; without entries for fused experts."""
        return ListCut(self.container, self.children, self.kept)

    def renamed(self, name: str) -> str | None:
        """The name of a parameter or module afterwards; ``None`` if it goes with its expert.

        >>> cut = ExpertCut("mlp", "mlp.experts", 3, np.array([0, 2]), ("0", "1", "2"))
        >>> cut.renamed("mlp.experts.2.up.weight"), cut.renamed("mlp.experts.1.up.weight"), cut.renamed("mlp.gate")
        ('mlp.experts.1.up.weight', None, 'mlp.gate')
        """
        return self.modules.renamed(name) if self.children else name

    def renumbered(self, table: torch.Tensor) -> torch.Tensor:
        """A table of expert ids with the numbers that experts have afterwards."""
        return renumbered(table, self.kept, self.before, self.replaced)

    def moved(self, new_name: Callable[[str], str]) -> ExpertCut:
        """The same cut in a model whose modules and tensors have new names."""
        return replace(
            self,
            layer=new_name(self.layer),
            container=new_name(self.container),
            tables=tuple(map(new_name, self.tables)),
            attributes=tuple((new_name(path), name) for path, name in self.attributes),
        )


@torch.no_grad()
def remove_experts(model: nn.Module, cuts: Iterable[ExpertCut]) -> None:
    """Shorten lists of experts, renumber the kept ones, and rewrite tables of expert ids, in place.

    The dimensions that count experts have been cut before.
    """
    tensors = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    for cut in cuts:
        if cut.children:
            shorten(model, cut.modules)
        for name in cut.tables:
            table = tensors[name]
            if table.device.type != "meta":
                table.copy_(cut.renumbered(table))
        for path, attribute in cut.attributes:
            setattr(model.get_submodule(path), attribute, cut.after)


def renumbered(
    table: torch.Tensor, kept: np.ndarray, before: int, replaced: Mapping[int, int] | None = None
) -> torch.Tensor:
    """A table of expert ids ``[..., k]`` after a removal: kept experts under their new numbers.

    An entry that names a removed expert takes the next kept one, in ascending order from there and round again. It
    skips those that its row names already, so that the ids of a row stay distinct. ``replaced`` names kept experts that
    take the place of removed ones whatever else a row names.

    >>> renumbered(torch.tensor([[0, 1], [2, 3], [1, 2]]), np.array([0, 2, 3]), 4).tolist()
    [[0, 1], [1, 2], [2, 1]]
    """
    count = len(kept)
    numbers = torch.full((before,), -1, dtype=torch.int64)
    numbers[torch.as_tensor(kept)] = torch.arange(count)
    for removed, expert in (replaced or {}).items():
        numbers[removed] = numbers[expert]
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
