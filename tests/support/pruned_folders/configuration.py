"""A ``config.json`` that is stale, or altered beside the pruning."""

from __future__ import annotations

import json

from foundry import edit_config

from pruned_folders.catalogue import wrong
from pruned_folders.scripts import experts


def config(**entries):
    def make(folder, draft):
        experts(draft).write(folder / "pruned")
        edit_config(folder / "pruned", **entries)

    return make


STEP = "config-in-step"
wrong("count-stale", "qwen3_moe", STEP, "config.json implies")(config(num_local_experts=8))
wrong("width-stale", "qwen3_moe", STEP, "config.json implies")(config(moe_intermediate_size=16))
wrong("two-counts", "qwen3_moe", STEP, "engines differ")(config(num_experts=8))
wrong("epsilon", "mixtral", STEP, "rms_norm_eps")(config(rms_norm_eps=1e-2))
wrong("activation", "mixtral", STEP, "hidden_act")(config(hidden_act="gelu"))
wrong("scaling-factor", "deepseek_v3", STEP, "routed_scaling_factor")(config(routed_scaling_factor=1.0))
wrong("normalised-top-k", "deepseek_v3", STEP, "norm_topk_prob")(config(norm_topk_prob=False))
wrong("top-k-lowered-without-need", "qwen3_moe", STEP, "num_experts_per_tok")(config(num_experts_per_tok=1))
wrong("top-k-raised", "qwen3_moe", STEP, "num_experts_per_tok")(config(num_experts_per_tok=3))
wrong("layer-kinds-changed", "gpt_oss", STEP, "layer_types")(config(layer_types=["full_attention"] * 3))
wrong("prediction-layers-announced", "deepseek_v3", STEP, "no removal adds")(config(num_nextn_predict_layers=1))
wrong("more-layers-announced", "mixtral", "layout", "missing")(config(num_hidden_layers=4))
wrong("fewer-layers-announced", "mixtral", "layout", "no place")(config(num_hidden_layers=2))


@wrong("rope-base", "mixtral", STEP, "rope")
def _(folder, draft):
    experts(draft).write(folder / "pruned")
    stored = json.loads((folder / "pruned" / "config.json").read_text())
    edit_config(folder / "pruned", rope_parameters={**stored["rope_parameters"], "rope_theta": 5e5})
