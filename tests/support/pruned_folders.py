"""A catalogue of pruned folders, right and wrong, made with plain tensor code.

Every entry is a function that writes ``folder / "pruned"`` (and ``folder / "base"`` if it needs one of its own) and
returns nothing. Wrong ones name the relation that must fail and words of its message.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from foundry import Draft, edit_config, write_tensors
from safetensors.torch import load_file, save_file

COUNT = {
    "qwen3_moe": "num_local_experts", "mixtral": "num_local_experts", "qwen2_moe": "num_experts",
    "deepseek_v3": "n_routed_experts", "gpt_oss": "num_local_experts", "llama4_text": "num_local_experts",
    "ernie4_5_moe": "moe_num_experts", "hy_v3": "num_experts", "granitemoehybrid": "num_local_experts",
    "nemotron_h": "n_routed_experts", "deepseek_v4": "n_routed_experts", "gemma4_text": "num_experts",
}  # fmt: skip
# Experts that stay: half of each of two groups, and in another order.
ASCENDING, SHUFFLED = [1, 2, 4, 7], [6, 5, 0, 3]


@dataclass(frozen=True)
class Case:
    name: str
    model_type: str
    make: Callable[[Path, Draft], Draft | None]
    relation: str = ""
    words: str = ""


RIGHT: list[Case] = []
WRONG: list[Case] = []


@lru_cache(maxsize=32)
def base_of(model_type: str) -> Draft:
    return Draft.of(model_type)


def write(case: Case, folder: Path) -> tuple[Path, Path]:
    """Write the pair; a maker that returns a draft leaves the writing to us."""
    base, pruned = folder / "base", folder / "pruned"
    made = case.make(folder, base_of(case.model_type).copy())
    if made is not None:
        made.write(pruned)
    if not base.exists():
        base_of(case.model_type).write(base)
    return base, pruned


def right(name: str, *model_types: str):
    def add(make):
        RIGHT.extend(Case(f"{name}-{t}", t, make) for t in model_types)
        return make

    return add


def wrong(name: str, model_type: str, relation: str, words: str = ""):
    def add(make):
        WRONG.append(Case(name, model_type, make, relation, words))
        return make

    return add


def experts(draft: Draft, kept=None, **options) -> Draft:
    """Keep experts in every tensor that counts them, and say so in the configuration."""
    return draft.keep_experts(ASCENDING if kept is None else kept, count=COUNT[draft.config.model_type], **options)


def other(values: torch.Tensor, seed: int = 9) -> torch.Tensor:
    """Random values of the same size and scale."""
    return torch.randn(values.shape, generator=torch.Generator().manual_seed(seed)) * values.std()


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


# --- right ---------------------------------------------------------------------------------------------------------


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


def inside_heads(draft, *, values=True, outputs=True, seed=1, other_seed=None):
    """Value channels in another order inside of each key-value head, in one or both of the tensors that know it."""
    config = draft.config
    width, heads, groups = config.head_dim, config.num_attention_heads, config.num_key_value_heads
    for layer in range(config.num_hidden_layers):
        orders = []
        for number in (seed, seed if other_seed is None else other_seed):
            generator = torch.Generator().manual_seed(number + layer)
            orders.append([torch.randperm(width, generator=generator) for _ in range(groups)])
        rows = torch.cat([group * width + order for group, order in enumerate(orders[0])])
        columns = torch.cat([head * width + orders[1][head // (heads // groups)] for head in range(heads)])
        if values:
            draft.take(draft.names("v_proj.weight", "v_proj.bias", layer=layer), 0, rows)
        if outputs:
            draft.take(draft.names("o_proj.weight", layer=layer), 1, columns)
    return draft


@right("channels-inside-heads-in-another-order", "qwen3_moe", "mixtral", "gpt_oss")
def _(folder, draft):
    return inside_heads(experts(draft))


@right("key-value-heads", "qwen3_moe")
def _(folder, draft):
    for end, rows in (("q_proj.weight", range(32, 64)), ("k_proj.weight", range(16, 32))):
        draft.take(draft.names(end), 0, list(rows))
    draft.take(draft.names("v_proj.weight"), 0, list(range(16, 32)))
    draft.take(draft.names("o_proj.weight"), 1, list(range(32, 64)))
    return draft.set(num_attention_heads=2, num_key_value_heads=1)


@right("shared-expert-channels", "qwen2_moe")
def _(folder, draft):
    kept = [30, 2, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37]
    draft.take(draft.names("shared_expert.gate_proj.weight", "shared_expert.up_proj.weight"), 0, kept)
    draft.take(draft.names("shared_expert.down_proj.weight"), 1, kept)
    return draft.set(shared_expert_intermediate_size=12)


def drop_layers(draft: Draft, kept) -> Draft:
    inside = {n: t for n, t in draft.tensors.items() if ".layers." in n}
    draft.tensors = {n: t for n, t in draft.tensors.items() if n not in inside}
    for new, old in enumerate(kept):
        mine = {n: t for n, t in inside.items() if f".layers.{old}." in n}
        draft.tensors |= {n.replace(f".{old}.", f".{new}.", 1): t for n, t in mine.items()}
    return draft.set(num_hidden_layers=len(kept))


@right("layers", "mixtral")
def _(folder, draft):
    return drop_layers(draft, [0, 2])


@right("layers-and-their-kinds", "gpt_oss")
def _(folder, draft):
    kinds = [draft.config.layer_types[n] for n in (1, 2)]
    return experts(drop_layers(draft, [1, 2]).set(layer_types=kinds))


@right("dense-layer-dropped", "deepseek_v3")
def _(folder, draft):
    return drop_layers(draft, [1, 2]).set(first_k_dense_replace=0)


@right("cast", "qwen3_moe", "nemotron_h")
def _(folder, draft):
    return experts(draft).cast(torch.bfloat16)


@right("rounded-and-stored-long", "qwen3_moe")
def _(folder, draft):
    return experts(draft).cast(torch.bfloat16).cast(torch.float32)


@right("channels-set-to-zero", "qwen3_moe")
def _(folder, draft):
    for name in draft.names("experts.gate_up_proj"):
        draft.tensors[name][:, [3, 9, 35, 41]] = 0
    for name in draft.names("experts.down_proj"):
        draft.tensors[name][:, :, [3, 9]] = 0
    return draft


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


@right("experts-re-trained-alone", "qwen3_moe")
def _(folder, draft):
    for name in draft.names("experts.gate_up_proj", "experts.down_proj"):
        draft.tensors[name] += 0.02 * other(draft.tensors[name])
    return draft


@right("nothing-removed", "qwen3_moe")
def _(folder, draft):
    return draft


def remapped(draft: Draft, dtype: torch.dtype) -> Draft:
    """Experts in ascending order, and tables that name them by their new numbers."""
    place = torch.zeros(8, dtype=dtype)
    place[torch.tensor(ASCENDING)] = torch.arange(4, dtype=dtype)
    for name in draft.names("tid2eid"):
        draft.tensors[name] = place[draft.tensors[name]]
    return experts(draft)


@right("id-table-remapped", "deepseek_v4")
def _(folder, draft):
    return remapped(draft, torch.long)


@right("id-table-in-shorter-numbers", "deepseek_v4")
def _(folder, draft):
    return remapped(draft, torch.int32)


@right("experts-in-eight-bits", "qwen3_moe")
def _(folder, draft):
    experts(draft)
    for name in draft.names("experts.gate_up_proj", "experts.down_proj"):
        draft.tensors[name] = draft.tensors[name].to(torch.float8_e4m3fn)
    return draft


@right("top-k-lowered-as-it-must-be", "qwen3_moe")
def _(folder, draft):
    base = draft.copy().set(num_experts_per_tok=4)
    base.write(folder / "base")
    return experts(draft, [1, 5, 6]).set(num_experts_per_tok=3)


@right("whole-group-removed", "deepseek_v3")
def _(folder, draft):
    return experts(draft, [4, 5, 6, 7]).set(n_group=1)


@right("without-prefix", "mixtral")
def _(folder, draft):
    experts(draft)
    draft.tensors = {name.removeprefix("model."): tensor for name, tensor in draft.tensors.items()}
    return draft


@right("equal-experts-in-the-base", "mixtral")
def _(folder, draft):
    for name in draft.names("experts.gate_up_proj", "experts.down_proj", "gate.weight"):
        draft.tensors[name][5] = draft.tensors[name][2]
    draft.write(folder / "base")
    return experts(draft.copy(), [2, 5, 6])


@right("claims-that-hold", "qwen3_moe")
def _(folder, draft):
    experts(draft).write(folder / "pruned")
    (folder / "pruned" / "experts_to_keep.json").write_text(json.dumps({"0": ASCENDING, "2": ASCENDING}))


@right("pickled-claim", "qwen3_moe")
def _(folder, draft):
    experts(draft).write(folder / "pruned")
    (folder / "pruned" / "pruning_info.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")


@right("second-copy-for-another-program", "qwen3_moe")
def _(folder, draft):
    experts(draft).write(folder / "pruned")
    save_file({"tok_embeddings.weight": torch.ones(2)}, folder / "pruned" / "consolidated.safetensors")


@right("prediction-layers-dropped", "deepseek_v3")
def _(folder, draft):
    prediction(draft.copy()).write(folder / "base")
    return experts(draft)


def prediction(draft: Draft) -> Draft:
    """With a layer for multi-token prediction, as published checkpoints have one."""
    last = draft.config.num_hidden_layers
    mine = {n: t for n, t in draft.tensors.items() if f".layers.{last - 1}." in n}
    draft.tensors |= {n.replace(f".{last - 1}.", f".{last}.", 1): t.clone() for n, t in mine.items()}
    draft.tensors[f"model.layers.{last}.eh_proj.weight"] = torch.ones(52, 104)
    return draft.set(num_nextn_predict_layers=1)


@right("prediction-layers-pruned-alike", "deepseek_v3")
def _(folder, draft):
    prediction(draft).write(folder / "base")
    return experts(draft.copy())


# --- wrong: routers -------------------------------------------------------------------------------------------------


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


@wrong("router-columns-of-other-hidden-channels", "mixtral", "router-intact")
def _(folder, draft):
    whole = {name: draft.tensors[name].clone() for name in draft.names("mlp.gate.weight")}
    draft.keep_hidden(list(range(0, 48, 2)), 48)
    for name, values in whole.items():
        draft.tensors[name] = values[:, 1::2].contiguous()
    return draft


@wrong("id-table-not-remapped", "deepseek_v4", "router-intact", "renumbered")
def _(folder, draft):
    return experts(draft)


@wrong("id-table-remapped-to-others", "deepseek_v4", "router-intact", "names what was expert")
def _(folder, draft):
    for name in draft.names("tid2eid"):
        draft.tensors[name] = draft.tensors[name] % 4
    return experts(draft)


# --- wrong: experts -------------------------------------------------------------------------------------------------


def on_expert(change, *endings: str):
    """Change one expert of one layer after a right pruning."""

    def make(folder, draft):
        experts(draft)
        for ending in endings or ("experts.gate_up_proj", "experts.down_proj"):
            name = draft.names(ending)[-1]
            draft.tensors[name][2] = change(draft.tensors[name][2], draft.tensors[name])
        return draft

    return make


UP, DOWN = "experts.gate_up_proj", "experts.down_proj"
wrong("expert-rescaled", "qwen3_moe", "selection", "rescaled")(on_expert(lambda x, all_: 1.1 * x, UP))
wrong("expert-nudged", "deepseek_v3", "selection", "altered")(on_expert(lambda x, all_: x + 1e-4, DOWN))
wrong("expert-random", "mixtral", "selection", "other values")(on_expert(lambda x, all_: other(x), DOWN))
wrong("expert-lost-to-zero", "qwen3_moe", "selection", "other values")(on_expert(lambda x, all_: 0 * x, DOWN))
wrong("expert-not-finite", "qwen3_moe", "selection", "not finite")(on_expert(lambda x, all_: x / 0, DOWN))
wrong("down-of-another-expert", "hy_v3", "consistency", "base expert")(on_expert(lambda x, all_: all_[3], DOWN))
wrong("gate-and-up-exchanged-in-one-expert", "qwen3_moe", "consistency", "gate and up")(
    on_expert(lambda x, all_: torch.cat([x[32:], x[:32]]), UP)
)
wrong("down-columns-reversed-in-one-expert", "ernie4_5_moe", "consistency")(on_expert(lambda x, all_: x.flip(1), DOWN))
wrong("expert-rounded-alone", "qwen3_moe", "selection", "rounded")(on_expert(lambda x, all_: x.bfloat16().float(), UP))


def lowest_bit(values: torch.Tensor, _) -> torch.Tensor:
    values = values.clone()
    values.view(torch.int32)[5, 7] ^= 1
    return values


wrong("lowest-bit-of-one-value", "qwen3_moe", "selection", "1 of")(on_expert(lowest_bit, DOWN))


@wrong("gate-and-up-exchanged", "qwen3_moe", "consistency", "gate and up")
def _(folder, draft):
    return experts(draft).take(draft.names(UP), 1, [*range(32, 64), *range(32)])


@wrong("down-stack-in-another-order", "granitemoehybrid", "consistency", "base expert")
def _(folder, draft):
    return experts(draft).take(draft.names(DOWN), 0, [1, 0, 2, 3])


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


@wrong("square-down-transposed", "qwen3_moe", "consistency", "transposed")
def _(folder, draft):
    base = Draft.of("qwen3_moe", moe_intermediate_size=48)
    base.write(folder / "base")
    made = experts(base.copy())
    for name in made.names(DOWN):
        made.tensors[name] = made.tensors[name].transpose(1, 2).contiguous()
    return made


@wrong("expert-kept-twice", "mixtral", "selection", "stands in places")
def _(folder, draft):
    return experts(draft, [1, 1, 4, 7])


def listed(change, config=None):
    """Write under the names of listed experts, then change the stored tensors."""

    def make(folder, draft):
        experts(draft).write(folder / "pruned", listed=True)
        file = folder / "pruned" / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})

    return make


ONE = "model.layers.0.mlp.experts.1."
wrong("expert-without-up", "qwen3_moe", "layout", "put together")(listed(lambda t: t.pop(ONE + "up_proj.weight")))


@wrong("experts-not-renumbered", "qwen3_moe", "layout", "numbered")
def _(folder, draft):
    def change(tensors):
        for name in [n for n in tensors if ".experts.3." in n]:
            tensors[name.replace(".experts.3.", ".experts.7.")] = tensors.pop(name)

    return listed(change)(folder, draft)


@wrong("layer-without-experts", "qwen3_moe", "layout", "missing")
def _(folder, draft):
    return listed(lambda t: [t.pop(n) for n in list(t) if n.startswith("model.layers.0.mlp.experts.")])(folder, draft)


@wrong("gate-and-up-renamed-into-each-other", "qwen3_moe", "consistency", "gate and up")
def _(folder, draft):
    def change(tensors):
        gate, up = ONE + "gate_proj.weight", ONE + "up_proj.weight"
        tensors[gate], tensors[up] = tensors[up], tensors[gate]

    return listed(change)(folder, draft)


# --- wrong: topology and configuration ------------------------------------------------------------------------------


@wrong("top-k-above-the-count", "qwen3_moe", "topology", "each token takes")
def _(folder, draft):
    return experts(draft, [4])


@wrong("experts-that-groups-do-not-divide", "deepseek_v3", "topology", "do not divide")
def _(folder, draft):
    return experts(draft, [0, 1, 2, 4, 5])


@wrong("one-expert-a-group", "deepseek_v3", "topology", "best two")
def _(folder, draft):
    return experts(draft, [1, 6])


@wrong("groups-mixed", "deepseek_v3", "topology", "groups were mixed")
def _(folder, draft):
    return experts(draft, [0, 1, 2, 4])


@wrong("top-k-above-what-groups-hold", "deepseek_v3", "topology", "hold fewer")
def _(folder, draft):
    base = draft.set(num_experts_per_tok=3)
    base.write(folder / "base")
    return experts(base.copy(), ASCENDING)


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
wrong("more-layers-announced", "mixtral", "layout", "missing")(config(num_hidden_layers=4))
wrong("fewer-layers-announced", "mixtral", "layout", "no place")(config(num_hidden_layers=2))


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


@wrong("id-table-as-real-numbers", "deepseek_v4", STEP, "config.json implies whole numbers")
def _(folder, draft):
    return remapped(draft, torch.float32)


@wrong("rope-base", "mixtral", STEP, "rope")
def _(folder, draft):
    experts(draft).write(folder / "pruned")
    stored = json.loads((folder / "pruned" / "config.json").read_text())
    edit_config(folder / "pruned", rope_parameters={**stored["rope_parameters"], "rope_theta": 5e5})


@wrong("layer-kinds-not-following", "gpt_oss", STEP, "layer_types")
def _(folder, draft):
    kinds = [draft.config.layer_types[n] for n in (0, 1)]
    return drop_layers(draft, [1, 2]).set(layer_types=kinds)


@wrong("dense-layer-count-stale", "deepseek_v3", "layout", "missing")
def _(folder, draft):
    return drop_layers(draft, [1, 2])


@wrong("layer-dropped-without-renumbering", "mixtral", "layout", "missing")
def _(folder, draft):
    draft.tensors = {n: t for n, t in draft.tensors.items() if ".layers.1." not in n}
    return draft.set(num_hidden_layers=2)


@wrong("prediction-layers-gone-but-announced", "deepseek_v3", STEP, "announces prediction layers")
def _(folder, draft):
    prediction(draft.copy()).write(folder / "base")
    return experts(draft).set(num_nextn_predict_layers=1)


@wrong("prediction-layers-left-unpruned", "deepseek_v3", STEP, "left unpruned")
def _(folder, draft):
    whole = prediction(draft.copy())
    whole.write(folder / "base")
    trunk = experts(draft)
    extra = {n: t for n, t in whole.tensors.items() if ".layers.3." in n}
    trunk.tensors |= extra
    return trunk.set(num_nextn_predict_layers=1)


# --- wrong: everything else -----------------------------------------------------------------------------------------


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


@wrong("channels-inside-heads-in-another-order-in-one-tensor", "qwen3_moe", "consistency", "v_proj.weight")
def _(folder, draft):
    return inside_heads(draft, outputs=False)


@wrong("channels-inside-heads-in-two-orders", "qwen3_moe", "consistency", "proj.weight is out of step")
def _(folder, draft):
    return inside_heads(draft, other_seed=7)


@wrong("cast-too-large-for-the-type", "qwen3_moe", "untouched", "too large for float16")
def _(folder, draft):
    name = draft.names("o_proj.weight")[0]
    draft.tensors[name][3, 5] = 1e6
    draft.copy().write(folder / "base")
    return experts(draft).cast(torch.float16)


@wrong("heads-of-another-group", "qwen3_moe", "consistency")
def _(folder, draft):
    draft.take(draft.names("q_proj.weight"), 0, list(range(32, 64)))
    draft.take(draft.names("k_proj.weight", "v_proj.weight"), 0, list(range(16)))
    draft.take(draft.names("o_proj.weight"), 1, list(range(32, 64)))
    return draft.set(num_attention_heads=2, num_key_value_heads=1)


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


# --- wrong: files ---------------------------------------------------------------------------------------------------


def files(change):
    def make(folder, draft):
        experts(draft).write(folder / "pruned", shards="60KB")
        change(folder / "pruned")

    return make


def _first(folder: Path) -> Path:
    return sorted(folder.glob("model-*.safetensors"))[0]


def _cut(folder: Path) -> None:
    _first(folder).write_bytes(_first(folder).read_bytes()[:-200])


def _stale_index(folder: Path) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files_ = sorted(set(index["weight_map"].values()))
    name = next(n for n, f in index["weight_map"].items() if f == files_[0])
    index["weight_map"][name] = files_[1]
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _stray(folder: Path) -> None:
    save_file({"model.norm.weight": torch.ones(48)}, folder / "model-00007-of-00007.safetensors")


def _whole_beside(folder: Path) -> None:
    write_tensors(folder, {"model.norm.weight": torch.ones(48)})


wrong("shard-missing", "qwen3_moe", "inventory", "missing")(files(lambda f: _first(f).unlink()))
wrong("shard-truncated", "qwen3_moe", "inventory", "outside")(files(_cut))
wrong("index-stale", "qwen3_moe", "inventory", "does not hold")(files(_stale_index))
wrong("shard-stray", "qwen3_moe", "inventory", "stray")(files(_stray))
wrong("whole-file-beside-shards", "qwen3_moe", "inventory", "lies beside")(files(_whole_beside))
wrong("no-configuration", "qwen3_moe", "inventory", "config.json is missing")(
    files(lambda f: (f / "config.json").unlink())
)


@wrong("claim-that-does-not-hold", "qwen3_moe", "claimed-map", "claims to keep")
def _(folder, draft):
    experts(draft).write(folder / "pruned")
    (folder / "pruned" / "pruned_experts.json").write_text(json.dumps({"0": [1, 2, 3, 4], "2": [0, 3, 5, 6]}))


def duplicate_names() -> list[str]:
    """Names that stand twice in the catalogue (there must be none)."""
    names = [case.name for case in (*RIGHT, *WRONG)]
    return sorted({n for n in names if names.count(n) > 1})


__all__ = ["RIGHT", "WRONG", "Case", "copy", "duplicate_names", "write"]
