"""Mistakes and habits that look like something else, in the catalogue of pruned folders."""

from __future__ import annotations

import torch
from foundry import Draft, edit_config

from pruned_folders.catalogue import base_of, right, wrong
from pruned_folders.configuration import STEP, config
from pruned_folders.dropped_layers import keep_layers
from pruned_folders.scripts import DOWN, SHUFFLED, UP, experts, other

LAYER = "model.layers.1."

# --- right: weights that are tied or not, orders that change nothing, numbers of layers -----------------------------


def tied(draft: Draft, now: bool = True) -> Draft:
    draft.tensors["lm_head.weight"] = draft.tensors["model.embed_tokens.weight"].clone()
    return draft.set(tie_word_embeddings=now)


@right("tied-head-stored-apart", "qwen3_moe")
def _(folder, draft):
    tied(draft).copy().write(folder / "base")
    return experts(draft.keep_hidden(list(range(4, 36)), 48)).set(tie_word_embeddings=False)


@right("equal-head-tied", "qwen3_moe")
def _(folder, draft):
    tied(draft, now=False).copy().write(folder / "base")
    return experts(draft).set(tie_word_embeddings=True)


@right("query-heads-in-another-order-in-their-group", "mixtral")
def _(folder, draft):
    order = [*range(16, 32), *range(16), *range(32, 64)]
    return experts(draft).take(draft.names("q_proj.weight"), 0, order).take(draft.names("o_proj.weight"), 1, order)


@right("hidden-channels-in-another-order", "mixtral")
def _(folder, draft):
    return experts(draft).keep_hidden(torch.randperm(48, generator=torch.Generator().manual_seed(3)).tolist(), 48)


def thetas(folder, **entries) -> Draft:
    """A model whose layers rotate by bases of their own, without its middle layer."""
    base = Draft.of("granitemoe_swa", layer_rope_theta=[10000.0, 500.0, 20.0])
    base.write(folder / "base")
    return keep_layers(base.copy(), [0, 2], layer_types=["full_attention", "sliding_attention"], **entries)


@right("rotation-of-each-layer", "granitemoe_swa")
def _(folder, draft):
    return thetas(folder, layer_rope_theta=[10000.0, 20.0])


# --- wrong: everything is of the base, somewhere else ----------------------------------------------------------------


def exchanged(one: str, two: str):
    def make(folder, draft):
        experts(draft)
        draft.tensors[one], draft.tensors[two] = draft.tensors[two], draft.tensors[one]
        return draft

    return make


wrong("query-and-key-norm-exchanged", "qwen3_moe", "untouched", "was altered")(
    exchanged(LAYER + "self_attn.q_norm.weight", LAYER + "self_attn.k_norm.weight")
)
wrong("norms-of-a-layer-exchanged", "qwen3_moe", "untouched", "was altered")(
    exchanged(LAYER + "input_layernorm.weight", LAYER + "post_attention_layernorm.weight")
)
wrong("norms-of-two-layers-exchanged", "gpt_oss", "untouched", "was altered")(
    exchanged(LAYER + "input_layernorm.weight", "model.layers.2.input_layernorm.weight")
)
wrong("keys-and-values-exchanged", "mixtral", "untouched", "other values")(
    exchanged(LAYER + "self_attn.k_proj.weight", LAYER + "self_attn.v_proj.weight")
)
_BIAS = "mlp.gate.e_score_correction_bias"
wrong("correction-biases-of-two-layers-exchanged", "deepseek_v3", "router-intact", "other values")(
    exchanged(LAYER + _BIAS, "model.layers.2." + _BIAS)
)


@wrong("experts-of-another-layer", "mixtral", "selection", "no expert of the base")
def _(folder, draft):
    whole = base_of("mixtral").tensors
    draft.tensors |= {n: whole[n.replace(".1.", ".2.", 1)].clone() for n in draft.names(UP, DOWN, layer=1)}
    return experts(draft)


@wrong("experts-of-one-layer-random", "qwen3_moe", "selection", "no expert of the base")
def _(folder, draft):
    draft.tensors |= {name: other(draft.tensors[name], 3) for name in draft.names(UP, DOWN, layer=2)}
    return experts(draft)


@wrong("keep-list-of-another-layer", "mixtral", "router-intact", "out of step")
def _(folder, draft):
    lists = [[1, 2, 4, 7], [0, 3, 5, 6], [1, 3, 5, 7]]
    for number, kept in enumerate(lists):
        draft.keep_experts(kept, layer=number, skip=("gate.weight",))
        draft.take(f"model.layers.{number}.mlp.gate.weight", 0, lists[min(number, 1)])
    return draft.set(num_local_experts=4)


@wrong("gate-half-of-another-expert", "qwen3_moe", "selection", "other values")
def _(folder, draft):
    stack = experts(draft).tensors[draft.names(UP)[-1]]
    stack[1, :32] = stack[2, :32].clone()
    return draft


@wrong("bias-of-sorted-experts", "gpt_oss", "router-intact", "out of step")
def _(folder, draft):
    experts(draft, SHUFFLED, skip=("router.bias",))
    return draft.take(draft.names("router.bias"), 0, sorted(SHUFFLED))


@wrong("bias-of-other-channels", "gpt_oss", "consistency", "out of step")
def _(folder, draft):
    whole = {name: draft.tensors[name].clone() for name in draft.names("gate_up_proj_bias")}
    draft.keep_channels(list(range(0, 56, 2)), 56, transposed=True, interleaved=True).set(intermediate_size=28)
    draft.tensors |= {name: values[:, :56].contiguous() for name, values in whole.items()}
    return draft


def rolled(ending: str, number: int = 0, by: int = 1):
    def make(folder, draft):
        experts(draft)
        name = draft.names(ending)[number]
        return draft.take(name, 0, torch.arange(len(draft.tensors[name])).roll(by))

    return make


for _type, _ending in (
    ("qwen3_moe", "q_norm.weight"),
    ("gpt_oss", "self_attn.sinks"),
    ("granitemoehybrid", "A_log"),
    ("nemotron_h", "dt_bias"),
    ("deepseek_v3", "kv_a_proj_with_mqa.weight"),
    ("mixtral", "lm_head.weight"),
):
    wrong(f"{_ending.partition('.')[0]}-rolled-{_type}", _type, "consistency", "out of step")(rolled(_ending))


@wrong("tokens-in-another-order", "mixtral", "consistency", "out of step")
def _(folder, draft):
    order = torch.randperm(128, generator=torch.Generator().manual_seed(1))
    return experts(draft).take(["lm_head.weight", "model.embed_tokens.weight"], 0, order)


@wrong("query-heads-of-other-groups", "mixtral", "consistency", "out of step")
def _(folder, draft):
    order = [*range(32, 48), *range(16, 32), *range(16), *range(48, 64)]
    return experts(draft).take(draft.names("q_proj.weight"), 0, order).take(draft.names("o_proj.weight"), 1, order)


@wrong("layers-in-another-order", "mixtral", "selection", "layers in another order")
def _(folder, draft):
    return keep_layers(draft, [2, 0])


@wrong("layer-repeated", "mixtral", "selection", "other values")
def _(folder, draft):
    repeated = keep_layers(draft, [0, 1, 1])
    repeated.tensors = {name: values.clone() for name, values in repeated.tensors.items()}
    return repeated


# --- wrong: factors and zeros ----------------------------------------------------------------------------------------


@wrong("routers-doubled", "mixtral", "router-intact", "rescaled")
def _(folder, draft):
    for name in experts(draft).names("mlp.gate.weight"):
        draft.tensors[name] *= 2
    return draft


@wrong("shared-expert-gates-zeroed", "qwen2_moe", "router-intact", "other values")
def _(folder, draft):
    for name in experts(draft).names("shared_expert_gate.weight"):
        draft.tensors[name].zero_()
    return draft


@wrong("attention-of-a-layer-zeroed", "mixtral", "untouched", "other values")
def _(folder, draft):
    experts(draft).tensors[LAYER + "self_attn.o_proj.weight"].zero_()
    return draft


# --- wrong: the configuration ----------------------------------------------------------------------------------------

wrong("window-as-small-as-the-count", "gpt_oss", STEP, "sliding_window")(config(sliding_window=4))
wrong("more-groups-a-token", "deepseek_v3", "topology", "takes 2 of 2 groups")(config(topk_group=2))
wrong("other-weights-tied", "mixtral", STEP, "hold other values than each other")(config(tie_word_embeddings=True))
wrong("another-task", "mixtral", "layout", "score.weight is missing")(
    config(architectures=["MixtralForSequenceClassification"])
)


@wrong("untied-head-random", "qwen3_moe", "untouched", "lm_head.weight holds other values")
def _(folder, draft):
    tied(draft).copy().write(folder / "base")
    experts(draft).set(tie_word_embeddings=False).tensors["lm_head.weight"] = other(draft.tensors["lm_head.weight"])
    return draft


@wrong("fewer-larger-heads", "mixtral", "masked-equivalence", "although every value is the base's")
def _(folder, draft):
    return experts(draft).set(num_attention_heads=2, num_key_value_heads=1, head_dim=32)


@wrong("quantisation-announced-of-plain-weights", "qwen3_moe", STEP, "all are stored plainly")
def _(folder, draft):
    experts(draft).write(folder / "pruned")
    edit_config(folder / "pruned", quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})


@wrong("scales-of-a-quantised-folder-left", "qwen3_moe", "layout", "no place")
def _(folder, draft):
    experts(draft).tensors["model.layers.0.mlp.experts.down_proj_scale_inv"] = torch.ones(4, 1, 1)
    return draft


@wrong("rotation-of-all-layers-left", "granitemoe_swa", STEP, "3 items, but 2 layers are left")
def _(folder, draft):
    return thetas(folder)


@wrong("rotation-of-the-first-layers", "granitemoe_swa", STEP, "layer_rope_theta[1] is 500.0")
def _(folder, draft):
    return thetas(folder, layer_rope_theta=[10000.0, 500.0])


@wrong("rotating-layers-not-following", "llama4_text", STEP, "no_rope_layers[1] is 1")
def _(folder, draft):
    kinds = ["chunked_attention", "full_attention"]
    return keep_layers(draft, [0, 2], moe_layers=[1], layer_types=kinds, no_rope_layers=[1, 1])
