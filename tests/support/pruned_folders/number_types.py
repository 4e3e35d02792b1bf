"""Casts to another number type, and tensors stored in a kind of number that no model has."""

from __future__ import annotations

import torch

from pruned_folders.catalogue import right, wrong
from pruned_folders.configuration import STEP
from pruned_folders.scripts import experts


@right("cast", "qwen3_moe", "nemotron_h")
def _(folder, draft):
    return experts(draft).cast(torch.bfloat16)


@right("rounded-and-stored-long", "qwen3_moe")
def _(folder, draft):
    return experts(draft).cast(torch.bfloat16).cast(torch.float32)


def stored_as(ending: str, dtype: torch.dtype):
    def make(folder, draft):
        experts(draft)
        for name in draft.names(ending):
            draft.tensors[name] = draft.tensors[name].to(dtype)
        return draft

    return make


KIND = "config.json implies real numbers"
wrong("experts-as-whole-numbers", "qwen3_moe", STEP, KIND)(stored_as("experts.down_proj", torch.int32))
wrong("norm-as-bytes", "mixtral", STEP, KIND)(stored_as("model.norm.weight", torch.uint8))
wrong("correction-bias-as-truth", "deepseek_v3", STEP, KIND)(stored_as("e_score_correction_bias", torch.bool))


@wrong("cast-too-large-for-the-type", "qwen3_moe", "untouched", "too large for float16")
def _(folder, draft):
    name = draft.names("o_proj.weight")[0]
    draft.tensors[name][3, 5] = 1e6
    draft.copy().write(folder / "base")
    return experts(draft).cast(torch.float16)
