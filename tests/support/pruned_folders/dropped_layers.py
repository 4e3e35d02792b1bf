"""Folders that lost whole layers, alone and with everything else, in the catalogue of pruned folders."""

from __future__ import annotations

from foundry import Draft

from pruned_folders.catalogue import right, wrong
from pruned_folders.layers import prediction
from pruned_folders.scripts import experts

# For each type the layers that stay, and what its configuration says of them.
KEPT = {
    "mixtral": ([0, 2], {}),
    "qwen2_moe": ([0, 2], {"layer_types": ["full_attention"] * 2}),
    "qwen3_moe": ([1, 2], {"mlp_only_layers": [0]}),
    "deepseek_v3": ([0, 2], {}),
    "hy_v3": ([1, 2], {"mlp_layer_types": ["sparse"] * 2}),
    "gpt_oss": ([1, 2], {"layer_types": ["full_attention", "sliding_attention"]}),
    "llama4_text": (
        [0, 2],
        {"moe_layers": [1], "no_rope_layers": [1, 0], "layer_types": ["chunked_attention", "full_attention"]},
    ),
    "ernie4_5_moe": ([1, 2], {"moe_layer_start_index": 0, "moe_layer_end_index": 1}),
    "granitemoehybrid": ([0, 1], {"layer_types": ["linear_attention", "full_attention"]}),
    "nemotron_h": ([0, 1, 3, 4], {"layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"]}),
    "deepseek_v4": (
        [0, 2],
        {
            "layer_types": ["sliding_attention", "heavily_compressed_attention"],
            "mlp_layer_types": ["hash_moe", "moe"],
        },
    ),
}


def keep_layers(draft: Draft, kept: list[int], **entries) -> Draft:
    """Renumber the tensors of the layers that stay; a layer for further tokens stays behind the last one."""
    inside = {n: t for n, t in draft.tensors.items() if ".layers." in n}
    draft.tensors = {n: t for n, t in draft.tensors.items() if n not in inside}
    count = 1 + max(int(name.split(".layers.")[1].split(".")[0]) for name in inside)
    behind = range(draft.config.num_hidden_layers, count)
    for new, old in enumerate([*kept, *behind]):
        mine = {n: t for n, t in inside.items() if f".layers.{old}." in n}
        draft.tensors |= {n.replace(f".{old}.", f".{new}.", 1): t for n, t in mine.items()}
    if draft.config.model_type != "nemotron_h":  # its list of kinds is the number of layers
        draft.set(num_hidden_layers=len(kept))
    return draft.set(**entries)


def dropped(draft: Draft) -> Draft:
    kept, entries = KEPT[draft.config.model_type]
    return keep_layers(draft, kept, **entries)


@right("layers-of-each-kind", *KEPT)
def _(folder, draft):
    return dropped(draft)


@right("layers-and-experts", "deepseek_v3", "gpt_oss", "hy_v3", "granitemoehybrid")
def _(folder, draft):
    return experts(dropped(draft))


@right("layers-sharded", "mixtral", "qwen3_moe", "deepseek_v3", "nemotron_h")
def _(folder, draft):
    draft.write(folder / "base", shards="60KB")
    dropped(draft.copy()).write(folder / "pruned", shards="60KB")


@right("layers-listed-on-disk", "qwen3_moe", "deepseek_v3")
def _(folder, draft):
    draft.write(folder / "base", listed=True, shards="60KB")
    dropped(draft.copy()).write(folder / "pruned", listed=True, shards="60KB")


@right("everything-and-layers", "qwen3_moe")
def _(folder, draft):
    own = [list(range(e, e + 16)) for e in range(8)]
    draft.keep_channels(own, 32).set(moe_intermediate_size=16)
    for end, rows in (
        ("q_proj.weight", range(32, 64)),
        ("k_proj.weight", range(16, 32)),
        ("v_proj.weight", range(16, 32)),
    ):
        draft.take(draft.names(end), 0, list(rows))
    draft.take(draft.names("o_proj.weight"), 1, list(range(32, 64))).set(num_attention_heads=2, num_key_value_heads=1)
    return experts(dropped(draft.keep_hidden(list(range(4, 36)), 48)))


@right("layers-before-one-for-further-tokens", "deepseek_v3")
def _(folder, draft):
    prediction(draft).write(folder / "base")
    return keep_layers(draft.copy(), [1, 2], first_k_dense_replace=0)


@wrong("prediction-layer-behind-layers-that-are-gone", "deepseek_v3", "config-in-step", "is a prediction layer's")
def _(folder, draft):
    whole = prediction(draft)
    whole.write(folder / "base")
    extra = {n: t.clone() for n, t in whole.tensors.items() if ".layers.3." in n}
    made = whole.copy()
    made.tensors = {n: t for n, t in made.tensors.items() if n not in extra}
    made = keep_layers(made, [1, 2], first_k_dense_replace=0)
    made.tensors |= extra
    return made
