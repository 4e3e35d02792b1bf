"""Shards and their index."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from foundry import write_tensors
from safetensors.torch import save_file

from pruned_folders.catalogue import wrong
from pruned_folders.scripts import experts


def files(change):
    def make(folder, draft):
        experts(draft).write(folder / "pruned", shards="60KB")
        change(folder / "pruned")

    return make


def _first(folder: Path) -> Path:
    return sorted(folder.glob("model-*.safetensors"))[0]


def _cut(folder: Path) -> None:
    _first(folder).write_bytes(_first(folder).read_bytes()[:-200])


def _stale_index(folder: Path) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files_ = sorted(set(index["weight_map"].values()))
    name = next(n for n, f in index["weight_map"].items() if f == files_[0])
    index["weight_map"][name] = files_[1]
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _stray(folder: Path) -> None:
    save_file({"model.norm.weight": torch.ones(48)}, folder / "model-00007-of-00007.safetensors")


def _whole_beside(folder: Path) -> None:
    write_tensors(folder, {"model.norm.weight": torch.ones(48)})


wrong("shard-missing", "qwen3_moe", "inventory", "missing")(files(lambda f: _first(f).unlink()))
wrong("shard-truncated", "qwen3_moe", "inventory", "outside")(files(_cut))
wrong("index-stale", "qwen3_moe", "inventory", "does not hold")(files(_stale_index))
wrong("shard-stray", "qwen3_moe", "inventory", "stray")(files(_stray))
wrong("whole-file-beside-shards", "qwen3_moe", "inventory", "lies beside")(files(_whole_beside))
wrong("no-configuration", "qwen3_moe", "inventory", "config.json is missing")(
    files(lambda f: (f / "config.json").unlink())
)
