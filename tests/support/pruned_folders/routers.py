"""Routers, their correction biases and scales."""

from __future__ import annotations

from pruned_folders.catalogue import wrong
from pruned_folders.scripts import experts, other


@wrong("router-permuted", "qwen3_moe", "router-intact", "hold")
def _(folder, draft):
    experts(draft)
    return draft.take(draft.names("mlp.gate.weight"), 0, [1, 0, 2, 3])


@wrong("router-permuted-in-one-layer-of-a-whole-model", "mixtral", "router-intact", "hold")
def _(folder, draft):
    return draft.take("model.layers.1.mlp.gate.weight", 0, [0, 1, 2, 3, 4, 5, 7, 6])


@wrong("router-of-the-first-experts", "deepseek_v3", "router-intact")
def _(folder, draft):
    experts(draft, skip=("gate.weight",))
    return draft.take(draft.names("mlp.gate.weight"), 0, range(4))


def first_four(ending: str, dim: int = 0):
    def make(folder, draft):
        experts(draft, skip=(ending,))
        return draft.take(draft.names(ending), dim, range(4))

    return make


for _type, _ending, _dim in (
    ("deepseek_v3", "e_score_correction_bias", 0),
    ("hy_v3", "e_score_correction_bias", 0),
    ("ernie4_5_moe", "e_score_correction_bias", 1),
    ("nemotron_h", "e_score_correction_bias", 0),
    ("gpt_oss", "router.bias", 0),
    ("gemma4_text", "per_expert_scale", 0),
    ("gpt_oss", "gate_up_proj_bias", 0),
    ("gpt_oss", "down_proj_bias", 0),
):
    _relation = "consistency" if "proj" in _ending else "router-intact"
    wrong(f"{_ending}-of-the-first-experts-{_type}", _type, _relation)(first_four(_ending, _dim))


@wrong("correction-bias-lost", "deepseek_v3", "router-intact")
def _(folder, draft):
    experts(draft)
    for name in draft.names("e_score_correction_bias"):
        draft.tensors[name].zero_()
    return draft


@wrong("correction-bias-missing", "deepseek_v3", "layout", "missing")
def _(folder, draft):
    experts(draft)
    draft.tensors.pop(draft.names("e_score_correction_bias")[0])
    return draft


@wrong("router-random-in-one-layer", "qwen3_moe", "router-intact", "other values")
def _(folder, draft):
    experts(draft)
    name = draft.names("mlp.gate.weight")[0]
    draft.tensors[name] = other(draft.tensors[name])
    return draft


@wrong("routers-random", "qwen3_moe", "router-intact", "other values")
def _(folder, draft):
    experts(draft)
    for name in draft.names("mlp.gate.weight"):
        draft.tensors[name] = other(draft.tensors[name], len(name))
    return draft


@wrong("router-of-another-layer", "mixtral", "router-intact")
def _(folder, draft):
    draft.tensors["model.layers.1.mlp.gate.weight"] = draft.tensors["model.layers.0.mlp.gate.weight"].clone()
    return experts(draft)


@wrong("router-row-nudged", "mixtral", "router-intact", "altered")
def _(folder, draft):
    experts(draft)
    draft.tensors["model.layers.1.mlp.gate.weight"][2] += 0.01
    return draft
