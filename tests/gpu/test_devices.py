"""The full pruner, the checks and lm-eval where the model lies: the CPU always, a GPU where there is one."""

import copy
import json

import pytest
import torch
from small_quality import EXPERTS_ONLY

import moeverify as mv
from benchmarks import full_model, full_model_docs
from benchmarks import full_model_checks as checks
from benchmarks.full_model_weights import build, make_config
from moeverify.errors import UsageError
from moeverify.evaluation import QualitySettings
from moeverify.models.device import check_device, input_device, move_inputs
from moeverify.models.sources import load_source

REDUCED = ["--layers", "2", "--hidden", "64", "--experts", "8", "--expert-channels", "32"]
REDUCED += ["--vocabulary", "128", "--heads", "4", "--head-dim", "16"]
SIZES = {"num_hidden_layers": 2, "hidden_size": 32, "num_experts": 4, "num_experts_per_tok": 2, "vocab_size": 64}
SIZES |= {"moe_intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}


@pytest.mark.slow
def test_every_check_passes_on_the_device(device):
    every_check_passes("zoo:mixtral", "bfloat16", device)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("source", ["small", "zoo:mixtral", "zoo:qwen3_moe", "zoo:deepseek_v3"])
def test_every_check_passes_on_more_models(source, dtype):
    every_check_passes(source, dtype, "cuda")


def every_check_passes(source, dtype, device):
    result = mv.verify(source, device=device, dtype=dtype, pruning_ratio=0.5, timeout=600)
    assert {v.check: v.message for v in result.verdicts if v.status not in ("pass", "skip")} == {}
    assert result.ok
    if device != "cpu":
        assert f"--device {device}" in result.verdicts[0].reproduce


@pytest.mark.slow
def test_quality_is_measured_on_the_device(device):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed; `tox run -e tests` installs it")
    quality = QualitySettings(tasks=("small_say", "small_shift"), limit=40, curve=(), max_drop=0.1)
    result = mv.verify("small", subject="moe-experts", device=device, checks=["quality"], quality=quality)
    assert result.ok, result.verdicts


def test_routing_importance_ranks_on_the_device(device):
    loaded = load_source("small", device=device)
    importance = mv.RoutingImportance(loaded.model, [loaded.example_inputs], probes=1)
    mv.MoEPruner(
        loaded.model, loaded.example_inputs, importance=importance, pruning_ratio=0.5, ratios=EXPERTS_ONLY
    ).step()
    with torch.no_grad():
        assert loaded.model(**loaded.example_inputs).logits.isfinite().all()
    assert {p.device.type for p in loaded.model.parameters()} == {device}


@pytest.mark.slow
def test_the_full_model_benchmark_at_reduced_size(device, tmp_path, capsys):
    words = [*REDUCED, "--device", device, "--dtype", "float32", "--rows", "8", "--length", "64"]
    assert full_model.main([*words, "--repeats", "1", "--out", str(tmp_path / "full.json")]) == 0
    result = json.loads((tmp_path / "full.json").read_text())
    assert set(result["checks"].values()) == {"pass"}
    assert result["after"]["bytes"] < result["before"]["bytes"] / 2
    assert {"build", "trace", "plan", "apply", "copy_once"} <= set(result["seconds"])
    assert result["peak_bytes"]["apply"] > 0
    page = full_model_docs.render([result])
    assert f"{result['before']['parameters']:,}" in page
    assert result["device"] in page


def test_the_benchmark_finds_what_is_wrong():
    before = make_config(**SIZES)
    model = build(make_config(**SIZES), torch.float32, torch.device("cpu"), 0)
    ids = torch.randint(0, 64, (4, 16))
    plan = mv.MoEPruner(model, {"input_ids": ids}, pruning_ratio=0.5, ignored_layers=[model.lm_head]).step()
    assert not checks.kept_weights(model, before, plan, 0)
    assert not checks.config_in_step(model)
    assert not checks.masked(model, before, plan, 2, 0, ids)[0]
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.model.layers[1].mlp.experts.down_proj[2, 3, 1] += 1e-3
    assert "model.layers.1.mlp.experts.down_proj" in checks.kept_weights(broken, before, plan, 0)
    assert "differs from the masked original" in checks.masked(broken, before, plan, 2, 0, ids)[0]
    broken.config.moe_intermediate_size = 16
    assert "experts.gate_up_proj" in checks.config_in_step(broken)
    broken.model.layers[0].mlp.gate.weight.data.zero_()
    assert checks.every_expert(model, ids) == ("", 0)
    wrong, forced = checks.every_expert(broken, ids)  # a router that always chooses the same two
    assert (wrong, forced) == ("", 2)
    assert "got no token, such as" in checks.every_expert(broken, ids[:1, :1])[0]
    broken.model.layers[0].mlp.experts.down_proj.data[3] = float("nan")
    assert checks.every_expert(broken, ids)[0] == "an output is not finite"


def test_devices_that_are_not_there(monkeypatch):
    assert check_device("auto") == "auto"
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        check_device("gpu")
    with pytest.raises(UsageError, match="not supported"):
        check_device("meta")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no CUDA device is available"):
        mv.verify("small", device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="there is no cuda:3"):
        check_device("cuda:3")


def test_inputs_go_where_the_model_is():
    model = load_source("zoo:mixtral").model
    assert input_device(model) == torch.device("cpu")
    moved = move_inputs({"input_ids": torch.zeros(2), "flag": 1}, torch.device("meta"))
    assert moved["input_ids"].is_meta
    assert moved["flag"] == 1
