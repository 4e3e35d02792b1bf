"""Sizes that engines take: what falls outside is named with source, date and the nearest that does not."""

import json

import pytest

from moeverify.errors import PruningRefused
from moeverify.models.engines.entries import EXPERTS, sizes_of
from moeverify.models.engines.limit import Limit, exceeded, exceeded_by, nearest
from moeverify.models.engines.table import LIMITS, limits_of
from moeverify.pruning.checkpoint.checkpoint import prune_checkpoint
from moeverify.serving.at_plan_time import plan_judge
from moeverify.serving.engines import ENGINES, engines_named
from moeverify.serving.folders import outside

VLLM = engines_named("vllm")


def test_every_limit_has_a_source_a_date_and_a_size_that_is_known():
    config = {
        "model_type": "x", "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1,
        "hidden_size": 64, "moe_intermediate_size": 32, "num_attention_heads": 4, "mamba_expand": 2,
    }  # fmt: skip
    assert LIMITS
    for limit in LIMITS:
        assert limit.source
        assert limit.read.startswith("20")
        assert limit.size in sizes_of(config)
    assert {limit for engine in ENGINES.values() for limit in engine.limits} == set(LIMITS)


def test_sizes_are_found_under_the_names_of_types_and_in_the_text_part():
    assert sizes_of({"num_local_experts": 4, "hidden_size": 64, "num_attention_heads": 4})["head_size"] == 16
    assert sizes_of({"hidden_size": 64, "num_attention_heads": 4})["heads"] == 4
    assert sizes_of({"text_config": {"num_experts": 6, "head_dim": 64}}) == {"experts": 6, "head_size": 64}
    assert sizes_of({"num_experts": [4, 8]}) == {}


def test_a_limit_is_compared_with_the_entry_that_its_engine_reads():
    config = {"model_type": "x", "num_experts": 12, "num_local_experts": 10, "n_group": 4}
    assert {engine: sizes_of(config, engine)["experts"] for engine in EXPERTS} == {"vllm": 12, "llama.cpp": 10}
    refused = {limit.engine for limit in exceeded_by(LIMITS, config) if "groups do not divide" in limit.rule}
    assert refused == {"llama.cpp"}


def test_limits_of_kernel_libraries_are_those_of_the_engine_that_uses_them():
    assert {limit.engine for limit in limits_of("vllm")} == {"vllm", "flashinfer", "aiter"}
    assert {limit.engine for limit in limits_of("llama.cpp")} == {"llama.cpp"}
    assert limits_of("sglang") == ()


@pytest.mark.parametrize(
    ("kind", "experts", "told"),
    [("deepseek_v4", 144, "nearest: 128 or 192"), ("deepseek_v4", 128, None), ("deepseek_v3", 144, None)],
)
def test_a_count_that_the_fused_router_does_not_know_is_a_note(tmp_path, kind, experts, told):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "n_routed_experts": experts}))
    notes = [n for n in outside(VLLM[0], tmp_path) if "fused router" in n]
    assert bool(notes) is (told is not None)
    assert told is None or told in notes[0]


def test_experts_that_groups_do_not_divide_fall_outside():
    def rules(experts):
        config = {"model_type": "deepseek_v3", "n_routed_experts": experts, "n_group": 4}
        return [limit.effect for limit in exceeded_by(VLLM[0].limits, config) if "groups do not divide" in limit.rule]

    assert rules(10) == ["differs"]
    assert rules(8) == []


def test_sizes_that_are_not_given_exceed_nothing():
    assert exceeded(LIMITS, {}) == []


def test_the_nearest_sizes_lie_on_both_sides():
    limit = Limit("x", "hidden", lambda value, sizes: value % 64 == 0, "", "", "")
    assert nearest(limit, {"hidden_size": 100}) == (64, 128)
    assert nearest(limit, {"hidden_size": 100}, most=100) == (64,)


def test_a_plan_is_refused_for_an_engine_that_would_refuse_its_sizes():
    before = {"model_type": "deepseek_v4", "n_routed_experts": 256}
    with pytest.raises(PruningRefused, match=r"experts 144: .*--ratio experts=0.5 or --ratio experts=0.25; nothing"):
        plan_judge(VLLM)(before, {("n_routed_experts",): 144})
    assert plan_judge(VLLM)(before, {("n_routed_experts",): 128}) == []
    # The base is refused as well: no matter of the plan.
    assert plan_judge(VLLM)({**before, "n_routed_experts": 240}, {("n_routed_experts",): 144}) == []


@pytest.mark.parametrize("engine", ["vllm", "llama.cpp"])
@pytest.mark.parametrize("kind", ["qwen2_moe", "granitemoe"])
def test_hidden_channels_of_a_type_whose_head_size_engines_work_out_stop_the_plan(engine, kind):
    config = {"model_type": kind, "hidden_size": 512, "num_attention_heads": 4, "moe_intermediate_size": 256}
    with pytest.raises(PruningRefused, match="hidden 256: the head size is worked out as hidden size / heads"):
        plan_judge(engines_named(engine))(config, {("hidden_size",): 256, ("head_dim",): 128})
    other = {**config, "model_type": "qwen3_moe"}
    assert plan_judge(engines_named(engine))(other, {("hidden_size",): 256, ("head_dim",): 128}) == []


def test_inner_channels_of_mamba_layers_that_an_engine_counts_on_stop_the_plan():
    config = {"model_type": "jamba", "hidden_size": 256, "mamba_expand": 2}
    with pytest.raises(PruningRefused, match="mamba expand 1: the inner size of Mamba layers is twice the hidden size"):
        plan_judge(engines_named("llama.cpp"))(config, {("mamba_expand",): 1})
    assert plan_judge(engines_named("vllm"))(config, {("mamba_expand",): 1}) == []


def test_what_an_engine_serves_less_well_is_a_note():
    notes = plan_judge(VLLM)({"model_type": "mixtral", "num_local_experts": 8}, {("num_local_experts",): 5})
    parallel, fused = notes
    assert parallel.startswith("vllm: experts 5: expert parallelism")
    assert "--ratio experts=0.5 or --ratio experts=0.25" in parallel
    assert "others take a general one" in fused


def test_prune_asks_before_anything_is_written(tmp_path):
    def refuse(config, entries):
        assert config["num_local_experts"] == 4
        assert entries["num_local_experts",] == 2
        raise PruningRefused("not served")

    with pytest.raises(PruningRefused, match="not served"):
        prune_checkpoint("zoo:mixtral", tmp_path / "out", ratios={"experts": 0.5}, check_plan_for=refuse)
    assert not (tmp_path / "out").exists()
