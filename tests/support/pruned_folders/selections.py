"""Whole experts: which of them were kept, in which order, and what was lost on the way."""

from __future__ import annotations

import torch

from pruned_folders.catalogue import right, wrong
from pruned_folders.scripts import COUNT, SHUFFLED, experts

EVERY = tuple(COUNT)
FIRST = (
    "qwen3_moe",
    "deepseek_v3",
    "gpt_oss",
    "llama4_text",
    "ernie4_5_moe",
    "hy_v3",
    "granitemoehybrid",
    "nemotron_h",
)


@right("experts-ascending", *FIRST, "mixtral", "qwen2_moe", "gemma4_text")
def _(folder, draft):
    return experts(draft)


@right("experts-shuffled-sharded", "qwen3_moe", "gpt_oss", "hy_v3", "nemotron_h")
def _(folder, draft):
    kept = SHUFFLED if draft.config.model_type != "nemotron_h" else [6, 1, 4, 3]
    experts(draft, kept).write(folder / "pruned", shards="60KB")


@right("experts-listed-on-disk", "qwen3_moe", "deepseek_v3", "mixtral", "llama4_text")
def _(folder, draft):
    experts(draft).write(folder / "pruned", listed=True, shards="60KB")


@right("merged", "qwen3_moe")
def _(folder, draft):
    for name in draft.names("experts.gate_up_proj", "experts.down_proj"):
        values = draft.tensors[name]
        draft.tensors[name] = torch.stack([0.6 * values[2 * e] + 0.4 * values[2 * e + 1] for e in range(4)])
    draft.take(draft.names("gate.weight"), 0, [0, 2, 4, 6])
    return draft.set(num_local_experts=4)


@right("copies", "mixtral")
def _(folder, draft):
    for name in draft.names("experts.gate_up_proj", "experts.down_proj"):
        draft.take(name, 0, [0, 0, 2, 2, 4, 4, 6, 6])
    return draft


@right("nothing-removed", "qwen3_moe")
def _(folder, draft):
    return draft


@right("equal-experts-in-the-base", "mixtral")
def _(folder, draft):
    for name in draft.names("experts.gate_up_proj", "experts.down_proj", "gate.weight"):
        draft.tensors[name][5] = draft.tensors[name][2]
    draft.write(folder / "base")
    return experts(draft.copy(), [2, 5, 6])


@wrong("expert-kept-twice", "mixtral", "selection", "stands in places")
def _(folder, draft):
    return experts(draft, [1, 1, 4, 7])
