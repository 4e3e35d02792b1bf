"""Pruned folders made with plain tensor code: what people's scripts write, right and wrong.

``Draft`` holds a model's tensors under transformers' names and its configuration. Everything is done by name and
position; nothing of moeverify is used except for the small random models.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from moeverify.models.zoo.build import randomise
from moeverify.models.zoo.shrink import shrunken_config

# Endings of tensors whose first dimension counts experts, and those where another one does.
PER_EXPERT = (
    "experts.gate_up_proj", "experts.gate_up_proj_bias", "experts.down_proj", "experts.down_proj_bias",
    "experts.up_proj", "mlp.gate.weight", "block_sparse_moe.gate.weight", "router.weight", "router.bias",
    "e_score_correction_bias", "expert_bias", "router.proj.weight", "per_expert_scale", "mixer.gate.weight",
    "feed_forward.gate.weight", "router.gate.weight",
)  # fmt: skip

# Eight experts, and sizes of the residual stream that no other dimension has.
_PLAIN = {"hidden_size": 48, "head_dim": 16}
MANY_EXPERTS = {
    "qwen3_moe": {**_PLAIN, "num_local_experts": 8},
    "mixtral": {**_PLAIN, "num_local_experts": 8},
    "qwen2_moe": {"hidden_size": 48, "num_experts": 8},
    "deepseek_v3": {"hidden_size": 52, "n_routed_experts": 8, "num_nextn_predict_layers": 0},
    "gpt_oss": {"num_local_experts": 8, "hidden_size": 52},
    "llama4_text": {"num_local_experts": 8, "hidden_size": 52},
    "ernie4_5_moe": {**_PLAIN, "moe_num_experts": 8},
    "hy_v3": {"hidden_size": 52, "num_experts": 8},
    "granitemoehybrid": {"num_local_experts": 8},
    "nemotron_h": {"n_routed_experts": 8},
    "deepseek_v4": {"n_routed_experts": 8, "num_nextn_predict_layers": 0},
    "gemma4_text": {"num_experts": 8},
}


class Draft:
    """Tensors and configuration of a model, to be changed and written."""

    def __init__(self, tensors, config, kind):
        self.tensors, self.config, self.kind = tensors, config, kind

    @classmethod
    def of(cls, model_type: str, *, seed: int = 0, dtype=torch.float32, **entries) -> Draft:
        """A small random model; ``entries`` change its configuration, as do those of ``MANY_EXPERTS``."""
        config = shrunken_config(model_type)
        for key, value in {**MANY_EXPERTS.get(model_type, {}), **entries}.items():
            setattr(config, key, value)
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager").eval()
        randomise(model, seed)
        for buffer in model.buffers():
            if buffer.dtype == torch.int64 and buffer.dim() == 2:  # an id table: any expert for any token
                buffer.copy_(torch.randint(0, 8, buffer.shape, generator=torch.Generator().manual_seed(seed)))
        tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        config = copy.deepcopy(model.config)
        config.dtype = dtype
        config.architectures = [type(model).__name__]
        return cls(tensors, config, type(model))

    def copy(self) -> Draft:
        return Draft({n: t.clone() for n, t in self.tensors.items()}, copy.deepcopy(self.config), self.kind)

    def set(self, **entries) -> Draft:
        for key, value in entries.items():
            setattr(self.config, key, value)
        return self

    def names(self, *endings: str, layer: int | None = None) -> list[str]:
        found = [n for n in self.tensors if n.endswith(endings)]
        return [n for n in found if layer is None or f".{layer}." in n]

    def take(self, names, dim: int, positions) -> Draft:
        index = torch.as_tensor(positions)
        for name in [names] if isinstance(names, str) else names:
            self.tensors[name] = self.tensors[name].index_select(dim, index).contiguous()
        return self

    def keep_experts(self, kept, *, layer: int | None = None, count: str = "", skip: tuple[str, ...] = ()) -> Draft:
        """Keep ``kept`` of every tensor that counts experts; ``skip`` are endings that a script forgot."""
        for name in self.names(*PER_EXPERT, layer=layer):
            if not name.endswith(skip or ("\0",)):
                self.take(name, 1 if "moe_statics" in name else 0, kept)
        if count:
            setattr(self.config, count, len(kept))
        return self

    def keep_channels(self, kept, size: int, *, transposed: bool = False, interleaved: bool = False) -> Draft:
        """Keep channels of fused experts; ``kept`` is one list, or a list of lists for each expert."""
        for name in self.names("experts.gate_up_proj", "experts.gate_up_proj_bias", "experts.down_proj"):
            values = self.tensors[name]
            rows = kept if isinstance(kept[0], list) else [kept] * len(values)
            parts = []
            for one, row in zip(values, rows, strict=True):
                index = torch.as_tensor(row)
                if "gate_up" in name:
                    both = torch.stack([2 * index, 2 * index + 1], 1).ravel() if interleaved else None
                    index = both if both is not None else torch.cat([index, index + size])
                    dim = 1 if transposed and one.dim() == 2 else 0
                else:
                    dim = 0 if transposed else 1
                parts.append(one.index_select(dim, index))
            self.tensors[name] = torch.stack(parts)
        return self

    def keep_hidden(self, kept, size: int) -> Draft:
        """Keep hidden channels wherever a dimension has the size of the residual stream (which must be unique)."""
        for name, values in list(self.tensors.items()):
            for dim, length in enumerate(values.shape):
                if length == size:
                    self.take(name, dim, kept)
        return self.set(hidden_size=len(kept))

    def cast(self, dtype) -> Draft:
        for name, values in self.tensors.items():
            if values.is_floating_point():
                self.tensors[name] = values.to(dtype)
        return self.set(dtype=dtype)

    def write(self, folder: Path, *, listed: bool = False, shards: str | None = None) -> Path:
        """Write the folder: under the names in memory (fused), or as the type's own ``save_pretrained`` does."""
        folder.mkdir(parents=True)
        if listed:
            model = self.kind(copy.deepcopy(self.config)).to(self.config.dtype)
            model.load_state_dict(self.tensors)
            model.save_pretrained(folder, **({"max_shard_size": shards} if shards else {}))
            return folder
        self.config.save_pretrained(folder)
        owners: dict[int, str] = {}
        tensors = {}
        for name, values in self.tensors.items():
            if owners.setdefault(values.data_ptr(), name) == name:
                tensors[name] = values.contiguous()
        if self.config.get_text_config().tie_word_embeddings:
            tensors.pop("lm_head.weight", None)
        write_tensors(folder, tensors, 3 if shards else 1)
        return folder


def write_tensors(folder: Path, tensors, shards: int = 1) -> None:
    """Write safetensors in one file or in several with an index."""
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, weight_map = list(tensors), {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[number::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def edit_config(folder: Path, **entries) -> Path:
    """Change entries of a written ``config.json``; ``None`` removes one."""
    config = json.loads((folder / "config.json").read_text())
    config = {key: value for key, value in {**config, **entries}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
