"""Layers for multi-token prediction, which tools drop, copy or forget."""

from __future__ import annotations

import torch

from tool_folders.catalogue import right, wrong
from tool_folders.scripts import ascending, chosen, keep_experts
from tool_folders.stored import Stored, base_of


def prediction(stored: Stored, number: int, hidden: int) -> Stored:
    """With a layer for multi-token prediction behind the trunk, a copy of the last one in its names."""
    for name, tensor in stored.of_layer(number - 1).items():
        stored.tensors[name.replace(f"layers.{number - 1}.", f"layers.{number}.")] = tensor.clone()
    stored.tensors[f"model.layers.{number}.eh_proj.weight"] = torch.ones(hidden, 2 * hidden)
    stored.config["num_nextn_predict_layers"] = 1
    return stored


@right
def reap_without_the_prediction_layer(folder):
    base = prediction(base_of("glm4_moe").copy(), 3, 64)
    base.write(folder / "base")
    trunk = base_of("glm4_moe")
    pruned = keep_experts(trunk.copy(), ascending(chosen(trunk, 4, of=8)))
    pruned.config |= {"n_routed_experts": 4, "num_nextn_predict_layers": 0}
    pruned.write(folder / "pruned")


@wrong("config-in-step", "announces prediction layers")
def prediction_layer_never_loaded_but_announced(folder):
    prediction(base_of("glm4_moe").copy(), 3, 64).write(folder / "base")
    trunk = base_of("glm4_moe")
    pruned = keep_experts(trunk.copy(), ascending(chosen(trunk, 4, of=8)))
    pruned.config |= {"n_routed_experts": 4, "num_nextn_predict_layers": 1}
    pruned.write(folder / "pruned")


@wrong("config-in-step", "left unpruned")
def prediction_layer_copied_as_it_was(folder):
    base = prediction(base_of("glm4_moe").copy(), 3, 64)
    base.write(folder / "base")
    kept = ascending(chosen(base_of("glm4_moe"), 4, of=8))
    pruned = keep_experts(base.copy(), kept)
    pruned.config["n_routed_experts"] = 4
    pruned.write(folder / "pruned")
