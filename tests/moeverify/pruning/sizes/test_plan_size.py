"""Sizes that pruning gives, from a configuration alone, are those of the model that is really pruned."""

import json
import shutil

import pytest
import torch
from everyday import everyday
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

import moeverify as mv
from moeverify.cli import app
from moeverify.errors import PruningRefused, SourceError
from moeverify.models.roles import find_roles
from moeverify.pruning.experts.topology import Topology
from moeverify.pruning.sizes.by_role import GIB, Size, largest_layer, sizes_by_role
from moeverify.pruning.sizes.plan_size import outside, parallel_sizes, plan_size, total
from moeverify.pruning.sizes.streaming_needs import streaming_needs
from wild_models.handwritten import flat_custom_code

SMALL = {
    "model_type": "deepseek_v3",
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 16,
    "n_group": 4,
    "topk_group": 2,
    "num_experts_per_tok": 4,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "vocab_size": 64,
    "dtype": "bfloat16",
}
QWEN3_30B = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
}
MOONLIGHT_16B = {
    "model_type": "deepseek_v3",
    "hidden_size": 2048,
    "intermediate_size": 11264,
    "moe_intermediate_size": 1408,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 512,
    "q_lora_rank": None,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "vocab_size": 163840,
}
# GiB that were published for so many experts: what vLLM holds after loading, not what the folder holds.
PUBLISHED = {
    "qwen3": (QWEN3_30B, "num_experts", {128: 56.93, 96: 43.43, 64: 29.92}, 30_532_122_624),
    "moonlight": (MOONLIGHT_16B, "n_routed_experts", {64: 29.88, 48: 23.17, 32: 16.47}, 15_960_108_544),
}
MIB = 2**20
BFLOAT16 = 2


def rotary_cache(positions, size):
    """Bytes of the sines and cosines that vLLM keeps for every position, once for all layers."""
    return positions * size * BFLOAT16


def rounded_up(*sizes):
    """Bytes that PyTorch's CUDA allocator adds to tensors of 10 MiB and more.

    It takes multiples of 2 MiB and gives a rest back that is larger than 1 MiB.
    """
    rests = [-size % (2 * MIB) for size in sizes if size >= 10 * MIB]
    return sum(rest for rest in rests if rest <= MIB)


# What vLLM holds beside the weights: the cache of 262144 positions (Qwen3-30B-A3B-*-2507), rounded embedding and head.
QWEN3_BESIDE = rotary_cache(262144, 128) + rounded_up(*2 * [151936 * 2048 * BFLOAT16])
# The cache of 8192 positions, the down projection of both shared experts in each of 26 layers, and the workspace that
# vLLM's backend for latent attention with FlashInfer allocates when it is imported (flashinfer_mla.py).
MOONLIGHT_BESIDE = rotary_cache(8192, 64) + rounded_up(*26 * [2 * 1408 * 2048 * BFLOAT16]) + 128 * MIB


def written(folder, config):
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return str(path)


@pytest.mark.parametrize(
    "ratios",
    everyday(
        [
            {"experts": 0.5},
            {"routed_experts": 0.5, "shared_experts": 0.5},
            {"experts": 0.25, "hidden": 0.5},
            {"heads": 0.5},
        ],
        {"experts+hidden"},
        "+".join,
    ),
    ids="+".join,
)
def test_sizes_are_those_of_the_pruned_model(tmp_path, ratios):
    planned = plan_size(written(tmp_path, SMALL), ratios=ratios)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SMALL), dtype=torch.bfloat16).eval()
    before = sizes_by_role(model, find_roles(model))
    pruner = mv.MoEPruner(
        model,
        {"input_ids": torch.arange(64).view(2, 32)},
        pruning_ratio=0.0,
        ratios=ratios,
        ignored_layers=[model.lm_head],
    )
    pruner.step()
    after = sizes_by_role(model, find_roles(model))
    assert planned.before == before
    assert planned.after == after
    assert total(after).parameters < total(before).parameters


def test_every_tensor_of_a_checkpoint_counts_once(tmp_path):
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**SMALL, tie_word_embeddings=True), dtype=torch.float32
    )
    sizes = sizes_by_role(model, find_roles(model))
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    tensors = {id(t): t for t in model.state_dict(keep_vars=True).values()}.values()
    assert saved["tie_word_embeddings"]
    assert total(sizes).bytes == sum(t.numel() * t.element_size() for t in tensors)
    assert sizes["embeddings"].parameters == 64 * 32
    assert sizes["routers"].parameters == 2 * (16 * 32 + 16)
    assert sizes["routed_experts"].parameters == 2 * 16 * 3 * 24 * 32
    assert largest_layer(model).parameters == sum(p.numel() for p in model.model.layers[1].parameters())


def weights_in_gib(name):
    """GiB of the weights of a published model by its number of experts; checks the number of parameters on the way."""
    config, entry, published, parameters = PUBLISHED[name]
    gib = {}
    for count in published:
        with torch.device("meta"):
            made = AutoConfig.for_model(**{**config, entry: count})
            model = AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16)
        gib[count] = total(sizes_by_role(model, find_roles(model))).gib
        if count == max(published):
            assert sum(p.numel() for p in model.parameters()) == parameters
    return gib


@pytest.mark.parametrize(("name", "beside"), [("qwen3", QWEN3_BESIDE), ("moonlight", MOONLIGHT_BESIDE)])
def test_published_sizes_are_weights_with_what_an_engine_holds_beside_them(name, beside):
    gib = weights_in_gib(name)
    held = {count: round(weights + beside / GIB, 2) for count, weights in gib.items()}
    assert held == PUBLISHED[name][2]


def test_the_same_sum_gives_what_vllm_reported_for_other_models():
    """Logs in vllm-project/vllm#12529 (DeepSeek-R1-Distill-Qwen-1.5B) and #4650 (DeepSeek-V2-Lite)."""
    qwen = 1_777_088_000 * BFLOAT16 + rotary_cache(131072, 128)
    assert qwen / GIB == pytest.approx(3.3414, abs=1e-4)
    projections = [2 * 1408 * 2048 * BFLOAT16] * 26 + [2 * 10944 * 2048 * BFLOAT16, 10944 * 2048 * BFLOAT16]
    lite = 15_706_484_224 * BFLOAT16 + rotary_cache(163840, 64) + rounded_up(*projections)
    assert round(lite / GIB, 4) == 29.3010


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_plans_of_published_models(name, ratio, tmp_path):
    config, _, published, _ = PUBLISHED[name]
    planned = plan_size(written(tmp_path, config), ratios={"experts": ratio})
    kept = int(max(published) * (1 - ratio))
    assert planned.experts == (kept,)
    saved = total(planned.before).gib - total(planned.after).gib
    assert saved == pytest.approx(published[max(published)] - published[kept], abs=0.01)


def test_illegal_numbers_are_refused_with_the_nearest_legal_ones(tmp_path):
    with pytest.raises(PruningRefused, match=r"nearest legal numbers are 12 .* or 16"):
        plan_size(written(tmp_path, SMALL), ratios={"experts": 0.125})


def test_the_command_prints_tables_and_json(tmp_path):
    source = written(tmp_path, {**SMALL, "n_group": 1, "topk_group": 1})
    asked = ["plan-size", source, "--ratio", "experts=0.5", "--expert-parallel", "16", "--gib-per-second", "2"]
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == 0, shown.output
    assert "n_routed_experts = 8" in shown.output
    assert "expert-parallel sizes: 1, 2, 4, 8" in shown.output
    assert "vllm-project/vllm#52435" in shown.output
    data = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert data["format"] == "moeverify-plan-size/1"
    assert data["experts"] == [8]
    assert data["layers"][0]["legal"] == list(range(4, 17))
    assert data["streaming"]["speed"] == 2
    parts = [size["bytes"] for part, size in data["after"].items() if part != "total"]
    assert sum(parts) == data["after"]["total"]["bytes"]


def test_what_is_ignored_keeps_its_size(tmp_path):
    config = {**QWEN3_30B, "hidden_size": 32, "num_hidden_layers": 2, "num_experts": 4, "num_experts_per_tok": 2}
    source = written(tmp_path, {**config, "moe_intermediate_size": 32, "num_attention_heads": 4, "vocab_size": 64})
    asked = ["plan-size", source, "--ratio", "hidden=0.5", "--ratio", "routed_experts=0.5", "--json"]
    entries = {"hidden_size": 16, "moe_intermediate_size": 16}
    assert entries.items() <= json.loads(CliRunner().invoke(app, asked).stdout)["entries"].items()
    data = json.loads(CliRunner().invoke(app, [*asked, "--ignore", "model.embed_tokens"]).stdout)
    assert data["entries"] == {"moe_intermediate_size": 16}
    assert data["after"]["embeddings"] == data["before"]["embeddings"]
    unknown = CliRunner().invoke(app, [*asked, "--ignore", "nowhere"])
    assert "no layer or parameter 'nowhere' to ignore" in str(unknown.exception)


def test_a_model_without_a_configuration_is_refused():
    with pytest.raises(SourceError, match="without a configuration"):
        plan_size("wild_models.handwritten.flattened:make")


def test_code_beside_a_configuration_is_run_if_the_user_lets_it(tmp_path):
    """Its experts lie side by side in linear layers: only a trace shows them."""
    model, _ = flat_custom_code.make()
    shutil.copy(flat_custom_code.__file__, tmp_path / "modeling_flat.py")
    model.config.auto_map = {
        "AutoConfig": "modeling_flat.FlatConfig",
        "AutoModelForCausalLM": "modeling_flat.FlatForCausalLM",
    }
    model.config.save_pretrained(tmp_path)
    planned = plan_size(str(tmp_path), ratios={"experts": 0.5}, trust_remote_code=True)
    assert planned.entries == {"num_experts": 2}
    assert 2 * planned.after["routed_experts"].parameters == planned.before["routed_experts"].parameters + 2 * 32


def test_nothing_asked_for_changes_nothing(tmp_path):
    planned = plan_size(written(tmp_path, SMALL))
    assert planned.before == planned.after
    assert planned.entries == {}


@pytest.mark.parametrize(
    ("topology", "engines"),
    [
        (Topology(128, 8), []),
        (Topology(160, 8), ["vllm"]),
        (Topology(96, 8), ["vllm"]),
        (Topology(256, 8, 8, 4, 2), []),
        (Topology(256, 8, 16, 4, 2), ["flashinfer"]),
        (Topology(256, 8, 8, 5, 2), ["flashinfer"]),
        (Topology(384, 8, 8, 4, 2), ["aiter"]),
        (Topology(100, 8, 8, 4, 2), ["vllm", "vllm", "llama.cpp"]),
    ],
)
def test_sizes_that_engines_cannot_take_are_noted(topology, engines):
    assert [limit.engine for limit in outside(topology, "deepseek_v4")] == engines


def test_the_expert_parallel_size_has_to_divide_the_experts():
    assert outside(Topology(192, 8), expert_parallel=64) == []
    assert [str(limit) for limit in outside(Topology(320, 8), expert_parallel=128)] == [
        "vllm: expert parallelism needs a number of experts that its size divides "
        "(vllm-project/vllm#52435, read 2026-11)"
    ]
    assert parallel_sizes(96) == [1, 2, 4, 8, 16, 32]


def test_streaming_reads_twice_and_holds_a_layer_in_float32():
    needs = streaming_needs(Size(100, 4 * GIB), Size(50, 2 * GIB), Size(10**9, 2 * 10**9), speed=2.0)
    assert needs.memory == 4 * 10**9 + 1.5 * GIB
    assert (needs.read, needs.written, needs.seconds) == (8 * GIB, 2 * GIB, 5.0)
