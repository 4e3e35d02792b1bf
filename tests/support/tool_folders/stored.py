"""A folder's tensors by their names on disk, with ``config.json``; and the bases that tools start from."""

from __future__ import annotations

import json
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
