"""Tools that keep whole experts of each layer and renumber them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from tool_folders.catalogue import right, wrong
from tool_folders.scripts import EXPERT, ROUTER, ascending, chosen, keep_experts, reap
from tool_folders.stored import Stored, base_of


@right
def reap_of_each_layer(folder):
    base = base_of("glm4_moe")
    reap(folder, "glm4_moe", "n_routed_experts", ascending(chosen(base, 5, of=8)))


@right
def sorted_by_score_with_a_true_claim(folder):
    kept = chosen(base_of("olmoe"), 12, of=16)
    reap(folder, "olmoe", "num_experts", kept)
    gone = {str(layer): sorted(set(range(16)) - set(experts)) for layer, experts in kept.items()}
    (folder / "pruned" / "pruned_experts.json").write_text(json.dumps(gone))


@wrong("router-intact", "hold")
def experts_in_the_order_of_their_names(folder):
    """0, 1, 10, 11, 2: numbers sorted as text, while the router's rows are sorted as numbers."""
    numbers = ascending(chosen(base_of("olmoe"), 12, of=16))
    as_text = {layer: sorted(experts, key=str) for layer, experts in numbers.items()}
    reap(folder, "olmoe", "num_experts", as_text, routers=numbers)


@wrong("claimed-map", "claims to keep")
def claim_of_other_experts(folder):
    kept = chosen(base_of("olmoe"), 12, of=16)
    reap(folder, "olmoe", "num_experts", kept)
    gone = {str(layer): sorted(experts)[:4] for layer, experts in kept.items()}
    (folder / "pruned" / "pruned_experts.json").write_text(json.dumps(gone))


@wrong("router-intact", "e_score_correction_bias")
def bias_beside_the_router_in_another_order(folder):
    base = base_of("minimax_m2")
    kept = chosen(base, 4, of=8, seed=3)
    reap(folder, "minimax_m2", "num_local_experts", kept)
    written = Stored(load_folder(folder / "pruned"), json.loads((folder / "pruned" / "config.json").read_text()))
    for name in written.tensors:
        if name.endswith("e_score_correction_bias"):
            layer = int(ROUTER.fullmatch(name)[1])
            written.tensors[name] = base.tensors[name][torch.tensor(sorted(kept[layer]))]
    replace_folder(folder / "pruned", written)


def load_folder(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def replace_folder(folder: Path, stored: Stored) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    stored.write(folder)


@wrong("consistency", "gate and up")
def first_and_third_matrix_exchanged(folder):
    base = base_of("lfm2_moe")
    base.write(folder / "base")
    pruned = keep_experts(base.copy(), ascending(chosen(base, 4, of=8)))
    pruned.config["num_experts"] = 4
    for name in [n for n in pruned.tensors if n.endswith("w1.weight") and EXPERT.fullmatch(n)]:
        other = name.replace("w1.weight", "w3.weight")
        pruned.tensors[name], pruned.tensors[other] = pruned.tensors[other], pruned.tensors[name]
    pruned.write(folder / "pruned")


@wrong("topology", "do not divide")
def a_count_that_groups_do_not_divide(folder):
    kept = ascending(chosen(base_of("bailing_hybrid"), 5, of=8))
    reap(folder, "bailing_hybrid", "num_experts", kept)
