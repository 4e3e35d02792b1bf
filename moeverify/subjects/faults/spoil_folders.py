"""Base of the faults of folder pruners: experts removed by plain tensor code, and the means to spoil it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

WEIGHTS, CONFIG = "model.safetensors", "config.json"
COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_ROUTER = re.compile(r"\.(gate|router)\.(weight|bias|e_score_correction_bias)$")
Tensors = dict[str, torch.Tensor]


def keep_half(base: Path, out: Path) -> list[int]:
    """Write a folder without every other expert; returns those that stay."""
    kept = numbers_of_experts(base)[::2]
    keep_experts(base, out, kept)
    return kept


def numbers_of_experts(base: Path) -> list[int]:
    """Numbers of the routed experts in the names of a folder's tensors."""
    return sorted({int(match.group(1)) for name in load_file(base / WEIGHTS) if (match := _EXPERT.search(name))})


def keep_experts(base: Path, out: Path, kept: Sequence[int], *, renumber: bool = True) -> None:
    """Write a folder with these experts of every MoE layer; without ``renumber`` they keep their names."""
    tensors, config = load_file(base / WEIGHTS), json.loads((base / CONFIG).read_text("utf-8"))
    count = len(numbers_of_experts(base))
    new = {old: number if renumber else old for number, old in enumerate(kept)}
    pruned: Tensors = {}
    for name, values in tensors.items():
        match = _EXPERT.search(name)
        if match is None:
            router = _ROUTER.search(name) and values.dim() and len(values) == count
            pruned[name] = values[list(kept)].clone() if router else values
        elif (old := int(match.group(1))) in new:
            pruned[_EXPERT.sub(f".experts.{new[old]}.", name)] = values
    for key in COUNTS:
        if key in config:
            config[key] = len(kept)
    shutil.copytree(base, out)
    save_file(pruned, out / WEIGHTS, metadata={"format": "pt"})
    (out / CONFIG).write_text(json.dumps(config), encoding="utf-8")


def edit(out: Path, change: Callable[[Tensors], None]) -> None:
    """Change the tensors of a folder in place."""
    tensors = load_file(out / WEIGHTS)
    change(tensors)
    save_file({name: values.contiguous() for name, values in tensors.items()}, out / WEIGHTS, metadata={"format": "pt"})
