"""Tools that sort every width by importance and remove nothing yet."""

from __future__ import annotations

import torch

from tool_folders.catalogue import right, wrong
from tool_folders.scripts import EXPERT, chosen, keep_experts
from tool_folders.stored import Stored, base_of


def sorted_everywhere(stored: Stored, skip: str = "\0") -> Stored:
    """Experts, their channels and hidden channels in order of importance; no width changes. ``skip`` is forgotten."""
    stored = keep_experts(stored, chosen(stored, 8, of=8, seed=3))
    hidden = torch.randperm(52, generator=torch.Generator().manual_seed(7))
    for name, tensor in stored.tensors.items():
        if name.endswith(skip):
            continue
        for dim, size in enumerate(tensor.shape):
            if size == 52:
                stored.tensors[name] = stored.tensors[name].index_select(dim, hidden)
        if expert := EXPERT.fullmatch(name):
            generator = torch.Generator().manual_seed(100 * int(expert[2]) + int(expert[3]))
            inner = torch.randperm(56, generator=generator)
            dim = 1 if name.endswith("w2.weight") else 0
            stored.tensors[name] = stored.tensors[name].index_select(dim, inner)
    return stored


@right
def sorted_by_importance_everywhere(folder):
    base_of("minimax_m2").write(folder / "base")
    sorted_everywhere(base_of("minimax_m2").copy()).write(folder / "pruned")


@wrong("consistency", "lm_head.weight")
def head_left_in_the_order_of_the_base(folder):
    base_of("minimax_m2").write(folder / "base")
    sorted_everywhere(base_of("minimax_m2").copy(), skip="lm_head.weight").write(folder / "pruned")
