"""Tensors outside of the experts: altered, taken from elsewhere, missing, too many; or trained again as a whole."""

from __future__ import annotations

import torch
from foundry import Draft

from pruned_folders.catalogue import base_of, right, wrong
from pruned_folders.scripts import experts, other


@right("re-trained", "qwen3_moe", "deepseek_v3")
def _(folder, draft):
    experts(draft)
    for name, values in draft.tensors.items():
        if values.is_floating_point():
            draft.tensors[name] = values + 0.05 * other(values, len(name)).nan_to_num(0)
    return draft


@right("another-seed", "qwen3_moe")
def _(folder, draft):
    return Draft.of("qwen3_moe", seed=5)


def on_tensor(name: str, change):
    def make(folder, draft):
        experts(draft)
        draft.tensors[name] = change(draft.tensors[name]).contiguous()
        return draft

    return make


wrong("norm-altered", "mixtral", "untouched", "altered")(
    on_tensor("model.layers.1.input_layernorm.weight", lambda x: x + 0.01)
)
wrong("final-norm-altered", "mixtral", "untouched")(on_tensor("model.norm.weight", lambda x: x * 1.0001 + 1e-4))
wrong("embedding-row-repeated", "mixtral", "consistency")(
    on_tensor("model.embed_tokens.weight", lambda x: torch.cat([x[:7], x[8:9], x[8:]]))
)
wrong("head-random", "mixtral", "untouched", "other values")(on_tensor("lm_head.weight", other))
wrong("one-projection-rounded", "mixtral", "untouched", "rounded")(
    on_tensor("model.layers.1.self_attn.k_proj.weight", lambda x: x.bfloat16().float())
)
wrong("queries-in-another-order", "mixtral", "consistency")(
    on_tensor("model.layers.1.self_attn.q_proj.weight", lambda x: torch.cat([x[16:32], x[:16], x[32:]]))
)
wrong("attention-of-another-layer", "mixtral", "untouched")(
    on_tensor(
        "model.layers.1.self_attn.k_proj.weight",
        lambda x: base_of("mixtral").tensors["model.layers.0.self_attn.k_proj.weight"],
    )
)
wrong("shared-expert-of-another-layer", "deepseek_v3", "untouched")(
    on_tensor("model.layers.1.mlp.shared_experts.up_proj.weight",
              lambda x: base_of("deepseek_v3").tensors["model.layers.2.mlp.shared_experts.up_proj.weight"])
)  # fmt: skip
wrong("state-space-rows-moved", "granitemoehybrid", "consistency")(
    on_tensor("model.layers.0.mamba.in_proj.weight", lambda x: torch.roll(x, 1, 0))
)
wrong("convolution-rows-reversed", "nemotron_h", "consistency")(
    on_tensor("model.layers.0.mixer.conv1d.weight", lambda x: x.flip(0))
)
wrong("square-projection-transposed", "granitemoehybrid", "consistency", "transposed")(
    on_tensor("model.layers.1.self_attn.q_proj.weight", lambda x: x.T)
)


@wrong("head-missing", "mixtral", "layout", "lm_head.weight is missing")
def _(folder, draft):
    experts(draft)
    draft.tensors.pop("lm_head.weight")
    return draft


@wrong("stray-tensor", "mixtral", "layout", "no place")
def _(folder, draft):
    experts(draft)
    draft.tensors["decoder.decoder.norm.weight"] = torch.ones(48)
    return draft
