"""Tools that prune values and change no shape."""

from __future__ import annotations

import torch

from tool_folders.catalogue import right
from tool_folders.scripts import EXPERT
from tool_folders.stored import base_of


@right
def clusters_that_share_one_member(folder):
    base = base_of("olmoe")
    base.write(folder / "base")
    pruned = base.copy()
    for name in base.tensors:
        if found := EXPERT.fullmatch(name):
            leader = f"{found[1]}{int(found[3]) // 4 * 4}{found[4]}"
            pruned.tensors[name] = base.tensors[leader].clone()
    pruned.write(folder / "pruned")


@right
def channels_of_least_energy_at_zero(folder):
    base = base_of("lfm2_moe")
    base.write(folder / "base")
    pruned = base.copy()
    for name in base.tensors:
        if found := EXPERT.fullmatch(name):
            lowest = torch.randperm(32, generator=torch.Generator().manual_seed(int(found[3])))[:6]
            pruned.tensors[name].index_fill_(1 if ".w2." in name else 0, lowest, 0.0)
    pruned.write(folder / "pruned")
