"""Channels of experts and of the residual stream."""

from __future__ import annotations

import torch

from pruned_folders.catalogue import base_of, right, wrong
from pruned_folders.scripts import DOWN, SHUFFLED, UP, experts


@right("channels-of-each-expert", "qwen3_moe", "hy_v3")
def _(folder, draft):
    own = [torch.randperm(32, generator=torch.Generator().manual_seed(e))[:16].tolist() for e in range(8)]
    draft.keep_channels(own, 32).set(moe_intermediate_size=16)
    return draft.set(num_shared_experts=2) if draft.config.model_type == "hy_v3" else draft


@right("channels-interleaved", "gpt_oss")
def _(folder, draft):
    return draft.keep_channels(list(range(0, 56, 2)), 56, transposed=True, interleaved=True).set(intermediate_size=28)


@right("hidden-channels", "qwen3_moe", "mixtral", "gpt_oss")
def _(folder, draft):
    size = draft.config.hidden_size
    return draft.keep_hidden(torch.randperm(size, generator=torch.Generator().manual_seed(3))[:24].tolist(), size)


@right("everything-at-once", "qwen3_moe")
def _(folder, draft):
    own = [torch.randperm(32, generator=torch.Generator().manual_seed(e))[:16].tolist() for e in range(8)]
    draft.keep_channels(own, 32).set(moe_intermediate_size=16).keep_hidden(list(range(40, 8, -1)), 48)
    experts(draft, SHUFFLED).write(folder / "pruned", listed=True)


@right("shared-expert-channels", "qwen2_moe")
def _(folder, draft):
    kept = [30, 2, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37]
    draft.take(draft.names("shared_expert.gate_proj.weight", "shared_expert.up_proj.weight"), 0, kept)
    draft.take(draft.names("shared_expert.down_proj.weight"), 1, kept)
    return draft.set(shared_expert_intermediate_size=12)


@wrong("router-columns-of-other-hidden-channels", "mixtral", "router-intact")
def _(folder, draft):
    whole = {name: draft.tensors[name].clone() for name in draft.names("mlp.gate.weight")}
    draft.keep_hidden(list(range(0, 48, 2)), 48)
    for name, values in whole.items():
        draft.tensors[name] = values[:, 1::2].contiguous()
    return draft


@wrong("gate-and-up-of-other-channels", "qwen3_moe", "consistency")
def _(folder, draft):
    gate, up = list(range(16)), list(range(8, 24))
    for name in draft.names(UP):
        draft.tensors[name] = draft.tensors[name][:, [*gate, *(32 + u for u in up)]]
    return draft.take(draft.names(DOWN), 2, gate).set(moe_intermediate_size=16)


@wrong("down-one-channel-late", "hy_v3", "consistency")
def _(folder, draft):
    draft.keep_channels(list(range(16)), 32).set(moe_intermediate_size=16, num_shared_experts=2)
    name = draft.names(DOWN)[0]
    whole = base_of("hy_v3").tensors[name]
    draft.tensors[name][3] = whole[3][:, 1:17]
    return draft


@wrong("interleaved-cut-as-halves", "gpt_oss", "consistency")
def _(folder, draft):
    return draft.keep_channels(list(range(28)), 56, transposed=True).set(intermediate_size=28)


@wrong("one-reader-of-other-hidden-channels", "qwen3_moe", "consistency")
def _(folder, draft):
    whole = draft.tensors["model.layers.1.mlp.up_proj.weight"].clone()
    draft.keep_hidden(list(range(24)), 48)
    draft.tensors["model.layers.1.mlp.up_proj.weight"] = whole[:, 24:].contiguous()
    return draft


@wrong("norm-of-the-first-hidden-channels", "qwen3_moe", "consistency")
def _(folder, draft):
    whole = draft.tensors["model.norm.weight"].clone()
    draft.keep_hidden(list(range(1, 48, 2)), 48)
    draft.tensors["model.norm.weight"] = whole[:24].clone()
    return draft


@wrong("shared-expert-out-of-step", "qwen2_moe", "consistency")
def _(folder, draft):
    draft.take(draft.names("shared_expert.gate_proj.weight", "shared_expert.up_proj.weight"), 0, list(range(20)))
    draft.take(draft.names("shared_expert.down_proj.weight"), 1, list(range(20, 40)))
    return draft.set(shared_expert_intermediate_size=20)
