"""Base of the faults of folder pruners: half of the experts removed by tensor code, and the means to spoil it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
Tensors = dict[str, torch.Tensor]


def keep_half(base: Path, out: Path) -> list[int]:
    """Write a Mixtral or Qwen3-MoE folder without every other expert; returns those that stay."""
    tensors, config = load_file(base / WEIGHTS), json.loads((base / CONFIG).read_text("utf-8"))
    numbers = sorted({int(found.group(1)) for name in tensors if (found := _EXPERT.search(name))})
    kept = numbers[::2]
    new = {old: number for number, old in enumerate(kept)}
    pruned: Tensors = {}
    for name, values in tensors.items():
        found = _EXPERT.search(name)
        if found is None:
            router = re.search(r"(\.gate|\.router)\.weight$", name) and len(values) == len(numbers)
            pruned[name] = values[kept].clone() if router else values
        elif (old := int(found.group(1))) in new:
            pruned[_EXPERT.sub(f".experts.{new[old]}.", name)] = values
    for key in ("num_local_experts", "num_experts"):
        if key in config:
            config[key] = len(kept)
    shutil.copytree(base, out)
    save_file(pruned, out / WEIGHTS, metadata={"format": "pt"})
    (out / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    return kept


def edit(out: Path, change: Callable[[Tensors], None]) -> None:
    """Change the tensors of a folder in place."""
    tensors = load_file(out / WEIGHTS)
    change(tensors)
    save_file({name: values.contiguous() for name, values in tensors.items()}, out / WEIGHTS, metadata={"format": "pt"})
