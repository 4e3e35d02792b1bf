"""Tensors of a checkpoint that its class does not load, above all layers that predict further tokens (MTP).

They are kept as they are if their sizes still fit the pruned model. Else they are left out, with a warning, and the
configuration's count is set to zero.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from moeverify.models.module_lists import ListCut, renamed
from moeverify.models.stored import INDEX, SINGLE, Stored, read_stored
from moeverify.pruning.plan.layer_cut import LayerCut

_IN_LAYER = re.compile(r"(?:^|\.)(?:layers|blocks|h)\.\d+\.(.+)$")
# What is computed anew whenever a model is built; leaving it out loses nothing.
_COMPUTED = re.compile(r"(inv_freq|position_ids|masked_bias|attn\.bias|relative_position_index)$")
_COUNT = re.compile(r"(?=.*(nextn|mtp))(?=.*layers?$)\w+")
_KEPT_FILE = "model-mtp.safetensors"


@dataclass(frozen=True)
class Unloaded:
    """Names of the tensors that were stored and not loaded, and why they do not fit any more (empty if they do)."""

    names: tuple[str, ...]
    because: str = ""


def unloaded_tensors(model: nn.Module, base: Stored, saved: Stored, lists: Sequence[ListCut] = ()) -> Unloaded:
    """Tensors of ``base`` that the class of ``model`` passes over, and whether they fit what was ``saved``.

    ``lists``: those that lost layers.
    """
    rules = [re.compile(rule) for rule in getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()]
    names = tuple(
        name
        for name in base.files
        if name not in saved.files and any(rule.search(name) for rule in rules) and not _COMPUTED.search(name)
    )
    return Unloaded(names, _misfit(names, base, saved, lists))


def _misfit(names: tuple[str, ...], base: Stored, saved: Stored, lists: Sequence[ListCut]) -> str:
    """First tensor of the model that changed size while unloaded tensors still have the old size; empty if there is
    none.

    A tensor in a layer is compared with those of its name in other layers. All are compared with tensors outside of
    layers. The embedding, the last norm and the head have the sizes of the residual stream and the vocabulary.
    """
    inside = {match.group(1) for name in names if (match := _IN_LAYER.search(name))}
    for name, shape in base.shapes.items():
        match = _IN_LAYER.search(name)
        if name in names or (match and match.group(1) not in inside):
            continue
        new = renamed(name, lists)
        if new is None:
            continue  # it went with its layer
        if new in saved.shapes and saved.shapes[new] != shape:
            return f"{new} is {list(saved.shapes[new])} now and was {list(shape)}"
        if new not in saved.shapes and match:
            return f"{name} is stored in another form or removed"
    return ""


def keep_or_drop(model: nn.Module, source: Path, folder: Path, layers: LayerCut | None = None) -> tuple[str, ...]:
    """Copy what the class of ``model`` does not load from ``source`` to the saved ``folder``, or leave it out.

    Layers stand behind the last one of the trunk, wherever that is after ``layers`` were dropped. Returns a note on
    what became of them.
    """
    base, lists = read_stored(source), () if layers is None else layers.lists
    unloaded = unloaded_tensors(model, base, read_stored(folder), lists)
    if not unloaded.names:
        return ()
    many = f"{len(unloaded.names)} tensors that {type(model).__name__} does not load, such as {unloaded.names[0]},"
    if not unloaded.because:
        _copy({name: renamed(name, lists) or name for name in unloaded.names}, base, folder)
        return (f"{many} were kept as they are",)
    entries = _set_counts_to_zero(model, folder)
    none = f"; {' and '.join(entries)} set to 0" if entries else ""
    note = f"{many} were left out, since they no longer fit: {unloaded.because}{none}"
    warnings.warn(note, stacklevel=5)
    return (note,)


def _copy(names: Mapping[str, str], base: Stored, folder: Path) -> None:
    """Copy tensors under new names, ``names[old]``."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted({base.files[name] for name in names}):
        with safe_open(file, "pt") as stored:
            tensors |= {new: stored.get_tensor(name) for name, new in names.items() if base.files[name] == file}
    save_file(tensors, folder / _KEPT_FILE, metadata={"format": "pt"})
    index = _index_of(folder)
    index["weight_map"] |= dict.fromkeys(tensors, _KEPT_FILE)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    index["metadata"]["total_size"] = int(index["metadata"].get("total_size", 0)) + size
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", "utf-8")


def kept_names(folder: Path) -> set[str]:
    """Names of the tensors that were kept as they are in a saved folder."""
    if not (folder / _KEPT_FILE).exists():
        return set()
    with safe_open(folder / _KEPT_FILE, "pt") as stored:
        return set(stored.keys())


def _index_of(folder: Path) -> dict[str, Any]:
    """The index of a saved folder; a single file becomes the first shard, since loaders ignore an index beside a single
    file.
    """
    if not (folder / SINGLE).exists():
        return json.loads((folder / INDEX).read_text("utf-8"))
    shard = "model-00001-of-00001.safetensors"
    os.rename(folder / SINGLE, folder / shard)
    with safe_open(folder / shard, "pt") as stored:
        names = list(stored.keys())
    size = (folder / shard).stat().st_size
    return {"metadata": {"total_size": size}, "weight_map": dict.fromkeys(names, shard)}


def _set_counts_to_zero(model: nn.Module, folder: Path) -> list[str]:
    """Set counts of MTP layers to 0 in the configuration, in memory and in the file; return the entries' names."""
    names = []
    own: Any = model.config
    configs = [own, getattr(own, "text_config", None)]
    for config in [c for c in configs if c is not None]:
        for name, value in list(vars(config).items()):
            if _COUNT.fullmatch(name) and isinstance(value, int) and not isinstance(value, bool) and value > 0:
                setattr(config, name, 0)
                names.append(name)
    if names:
        own.save_pretrained(folder)
    return names
