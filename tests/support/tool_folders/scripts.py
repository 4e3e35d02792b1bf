"""Steps that the scripts of several tools share: by names on disk, never by a model."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from tool_folders.stored import Stored, base_of

EXPERT = re.compile(r"(.*\blayers\.(\d+)\..*\bexperts\.)(\d+)(\..*)")
ROUTER = re.compile(r".*\blayers\.(\d+)\..*(\bgate\.weight|e_score_correction_bias|expert_bias)")
Kept = dict[int, list[int]]


def moe_layers(stored: Stored) -> list[int]:
    return sorted({int(found[2]) for name in stored.tensors if (found := EXPERT.fullmatch(name))})


def keep_experts(stored: Stored, kept: Kept, *, routers: Kept | None = None) -> Stored:
    """Renumber the experts of each layer in the order of ``kept``; the rows of routers by ``routers``."""
    result = {}
    for name, tensor in stored.tensors.items():
        expert, router = EXPERT.fullmatch(name), ROUTER.fullmatch(name)
        if expert and int(expert[2]) in kept:
            order = kept[int(expert[2])]
            if int(expert[3]) in order:
                result[f"{expert[1]}{order.index(int(expert[3]))}{expert[4]}"] = tensor
        elif router and int(router[1]) in kept:
            result[name] = tensor[torch.tensor((routers or kept)[int(router[1])])]
        else:
            result[name] = tensor
    return Stored(result, stored.config)


def chosen(stored: Stored, count: int, *, of: int, seed: int = 0) -> Kept:
    """Experts by a score, best first; other ones in each layer."""
    return {
        layer: torch.randperm(of, generator=torch.Generator().manual_seed(seed + layer))[:count].tolist()
        for layer in moe_layers(stored)
    }


def ascending(kept: Kept) -> Kept:
    return {layer: sorted(experts) for layer, experts in kept.items()}


def reap(folder: Path, model_type: str, count_key: str, kept: Kept, *, routers: Kept | None = None) -> None:
    """Whole experts, one count key in the configuration; both folders are written."""
    base = base_of(model_type)
    base.write(folder / "base")
    pruned = keep_experts(base.copy(), kept, routers=routers)
    pruned.config[count_key] = len(next(iter(kept.values())))
    pruned.write(folder / "pruned", shards=3)
