"""Folders as public pruning tools write them: scripts that read and write names on disk, not a model's.

``Stored`` is a folder's tensors and ``config.json``. Every tool is a function of a base; faults are what such tools did
wrong. The architectures are others than those of ``pruned_folders``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from foundry import Draft, write_tensors
from safetensors.torch import load_file
from torch import nn
from transformers import Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration

from moeverify.models.zoo.build import randomise
from moeverify.models.zoo.shrink import shrunken_config

_EXPERT = re.compile(r"(.*\blayers\.(\d+)\..*\bexperts\.)(\d+)(\..*)")
_ROUTER = re.compile(r".*\blayers\.(\d+)\..*(\bgate\.weight|e_score_correction_bias|expert_bias)")
Kept = dict[int, list[int]]


@dataclass
class Stored:
    """Tensors by their names on disk, and the configuration as JSON."""

    tensors: dict[str, torch.Tensor]
    config: dict

    def copy(self) -> Stored:
        return Stored({n: t.clone() for n, t in self.tensors.items()}, json.loads(json.dumps(self.config)))

    def write(self, folder: Path, shards: int = 1) -> None:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        write_tensors(folder, {name: tensor.contiguous() for name, tensor in self.tensors.items()}, shards)

    def of_layer(self, number: int) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in self.tensors.items() if f"layers.{number}." in name}


# Sizes that no other dimension has, and as many experts as a tool would have to choose among.
_SIZES = {
    "glm4_moe": {"n_routed_experts": 8, "num_nextn_predict_layers": 0},
    "minimax_m2": {"num_local_experts": 8, "hidden_size": 52},
    "olmoe": {"num_experts": 16},
    "lfm2_moe": {"num_experts": 8},
    "dots1": {"n_routed_experts": 8},
    "bailing_hybrid": {"num_experts": 8, "num_nextn_predict_layers": 0},
}


@lru_cache(maxsize=16)
def base_of(model_type: str, *, listed: bool = True) -> Stored:
    """What ``save_pretrained`` writes (one tensor an expert), or the same under the fused names in memory."""
    with TemporaryDirectory() as place:
        folder = Path(place, "base")
        if model_type in _SIZES:
            Draft.of(model_type, **_SIZES[model_type]).write(folder, listed=listed)
        else:
            with_a_vision_tower().save_pretrained(folder, save_original_format=listed)
        tensors = load_file(folder / "model.safetensors")
        return Stored(tensors, json.loads((folder / "config.json").read_text()))


def with_a_vision_tower() -> nn.Module:
    """A published layout: the text model is one part of the configuration and of the names."""
    text = shrunken_config("qwen3_5_moe_text")
    vision = {"depth": 1, "hidden_size": 24, "intermediate_size": 40, "num_heads": 2, "patch_size": 4}
    vision |= {"out_hidden_size": text.hidden_size, "num_position_embeddings": 16, "deepstack_visual_indexes": []}
    config = Qwen3_5MoeConfig(text_config=text.to_dict(), vision_config=vision, image_token_id=120, video_token_id=121)
    torch.manual_seed(0)
    model = Qwen3_5MoeForConditionalGeneration(config)
    randomise(model, 0)
    return model.eval()


def moe_layers(stored: Stored) -> list[int]:
    return sorted({int(found[2]) for name in stored.tensors if (found := _EXPERT.fullmatch(name))})


def keep_experts(stored: Stored, kept: Kept, *, routers: Kept | None = None) -> Stored:
    """Renumber the experts of each layer in the order of ``kept``; the rows of routers by ``routers``."""
    result = {}
    for name, tensor in stored.tensors.items():
        expert, router = _EXPERT.fullmatch(name), _ROUTER.fullmatch(name)
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


def prediction(stored: Stored, number: int, hidden: int) -> Stored:
    """With a layer for multi-token prediction behind the trunk, a copy of the last one in its names."""
    for name, tensor in stored.of_layer(number - 1).items():
        stored.tensors[name.replace(f"layers.{number - 1}.", f"layers.{number}.")] = tensor.clone()
    stored.tensors[f"model.layers.{number}.eh_proj.weight"] = torch.ones(hidden, 2 * hidden)
    stored.config["num_nextn_predict_layers"] = 1
    return stored


@dataclass(frozen=True)
class ToolCase:
    """``make`` writes ``base`` and ``pruned`` into a folder. A wrong one names the relation and words of its line."""

    name: str
    make: Callable[[Path], None]
    relation: str = ""
    words: str = ""


RIGHT: list[ToolCase] = []
WRONG: list[ToolCase] = []


def right(make: Callable[[Path], None]) -> None:
    RIGHT.append(ToolCase(make.__name__.replace("_", "-"), make))


def wrong(relation: str, words: str) -> Callable[[Callable[[Path], None]], None]:
    return lambda make: WRONG.append(ToolCase(make.__name__.replace("_", "-"), make, relation, words))


def reap(folder: Path, model_type: str, count_key: str, kept: Kept, *, routers: Kept | None = None) -> None:
    """Whole experts, one count key in the configuration; both folders are written."""
    base = base_of(model_type)
    base.write(folder / "base")
    pruned = keep_experts(base.copy(), kept, routers=routers)
    pruned.config[count_key] = len(next(iter(kept.values())))
    pruned.write(folder / "pruned", shards=3)


# --- right -----------------------------------------------------------------------------------------------------------


@right
def reap_of_each_layer(folder):
    base = base_of("glm4_moe")
    reap(folder, "glm4_moe", "n_routed_experts", ascending(chosen(base, 5, of=8)))


@right
def reap_without_the_prediction_layer(folder):
    base = prediction(base_of("glm4_moe").copy(), 3, 64)
    base.write(folder / "base")
    trunk = base_of("glm4_moe")
    pruned = keep_experts(trunk.copy(), ascending(chosen(trunk, 4, of=8)))
    pruned.config |= {"n_routed_experts": 4, "num_nextn_predict_layers": 0}
    pruned.write(folder / "pruned")


@right
def one_tensor_an_expert_from_fused_ones_with_a_nested_count(folder):
    base = base_of("qwen3_5_moe", listed=False)
    base.write(folder / "base")
    pruned = unfused(base.copy(), [0, 2, 3])
    pruned.config["text_config"]["num_experts"] = 3
    pruned.write(folder / "pruned")


def unfused(stored: Stored, kept: list[int]) -> Stored:
    """Fused stacks as one matrix an expert, in the names of the earlier releases of a family."""
    for name in [n for n in stored.tensors if n.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        stack, prefix = stored.tensors.pop(name), name.rpartition(".")[0]
        for expert, values in enumerate(stack):
            parts = ["down"] if name.endswith("down_proj") else ["gate", "up"]
            for part, matrix in zip(parts, values.chunk(len(parts)), strict=True):
                stored.tensors[f"{prefix}.{expert}.{part}_proj.weight"] = matrix.clone()
    return keep_experts(stored, dict.fromkeys(moe_layers(stored), kept))


@right
def sorted_by_score_with_a_true_claim(folder):
    kept = chosen(base_of("olmoe"), 12, of=16)
    reap(folder, "olmoe", "num_experts", kept)
    gone = {str(layer): sorted(set(range(16)) - set(experts)) for layer, experts in kept.items()}
    (folder / "pruned" / "pruned_experts.json").write_text(json.dumps(gone))


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
        if expert := _EXPERT.fullmatch(name):
            generator = torch.Generator().manual_seed(100 * int(expert[2]) + int(expert[3]))
            inner = torch.randperm(56, generator=generator)
            dim = 1 if name.endswith("w2.weight") else 0
            stored.tensors[name] = stored.tensors[name].index_select(dim, inner)
    return stored


@right
def sorted_by_importance_everywhere(folder):
    base_of("minimax_m2").write(folder / "base")
    sorted_everywhere(base_of("minimax_m2").copy()).write(folder / "pruned")


def sliced(stored: Stored, layers: list[int]) -> Stored:
    """Layers put together anew and renumbered; of the configuration the layer count alone is written."""
    inside = {n: t for n, t in stored.tensors.items() if ".layers." in n}
    tensors = {n: t for n, t in stored.tensors.items() if n not in inside}
    for new, old in enumerate(layers):
        tensors |= {n.replace(f"layers.{old}.", f"layers.{new}."): t for n, t in stored.of_layer(old).items()}
    return Stored(tensors, {**stored.config, "num_hidden_layers": len(layers)})


@right
def slices_of_layers_with_their_kinds(folder):
    base_of("dots1").write(folder / "base")
    pruned = sliced(base_of("dots1").copy(), [0, 2])
    pruned.config["layer_types"] = [pruned.config["layer_types"][n] for n in (0, 2)]
    pruned.write(folder / "pruned")


@right
def clusters_that_share_one_member(folder):
    base = base_of("olmoe")
    base.write(folder / "base")
    pruned = base.copy()
    for name in base.tensors:
        if found := _EXPERT.fullmatch(name):
            leader = f"{found[1]}{int(found[3]) // 4 * 4}{found[4]}"
            pruned.tensors[name] = base.tensors[leader].clone()
    pruned.write(folder / "pruned")


@right
def channels_of_least_energy_at_zero(folder):
    base = base_of("lfm2_moe")
    base.write(folder / "base")
    pruned = base.copy()
    for name in base.tensors:
        if found := _EXPERT.fullmatch(name):
            lowest = torch.randperm(32, generator=torch.Generator().manual_seed(int(found[3])))[:6]
            pruned.tensors[name].index_fill_(1 if ".w2." in name else 0, lowest, 0.0)
    pruned.write(folder / "pruned")


# --- wrong -----------------------------------------------------------------------------------------------------------


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
            layer = int(_ROUTER.fullmatch(name)[1])
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
    for name in [n for n in pruned.tensors if n.endswith("w1.weight") and _EXPERT.fullmatch(n)]:
        other = name.replace("w1.weight", "w3.weight")
        pruned.tensors[name], pruned.tensors[other] = pruned.tensors[other], pruned.tensors[name]
    pruned.write(folder / "pruned")


@wrong("consistency", "lm_head.weight")
def head_left_in_the_order_of_the_base(folder):
    base_of("minimax_m2").write(folder / "base")
    sorted_everywhere(base_of("minimax_m2").copy(), skip="lm_head.weight").write(folder / "pruned")


@wrong("config-in-step", "layer_types")
def slices_of_layers_with_a_stale_list(folder):
    base_of("dots1").write(folder / "base")
    pruned = sliced(base_of("dots1").copy(), [0, 2])
    pruned.config["layer_types"] = pruned.config["layer_types"][:2]
    pruned.write(folder / "pruned")


@wrong("topology", "do not divide")
def a_count_that_groups_do_not_divide(folder):
    kept = ascending(chosen(base_of("bailing_hybrid"), 5, of=8))
    reap(folder, "bailing_hybrid", "num_experts", kept)


@wrong("config-in-step", "config.json implies")
def count_written_outside_of_the_part_that_counts(folder):
    base = base_of("qwen3_5_moe", listed=False)
    base.write(folder / "base")
    pruned = unfused(base.copy(), [0, 2, 3])
    pruned.config["num_experts"] = 3
    pruned.write(folder / "pruned")
