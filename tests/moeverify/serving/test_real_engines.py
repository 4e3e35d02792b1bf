"""The engines themselves, where they are installed: right prunings are served, a wrong one is told apart."""

import json

import pytest
from safetensors.torch import load_file, save_file

import moeverify as mv
from moeverify.models.sources import load_source
from moeverify.serving.engines import engine_named
from moeverify.serving.environment import installation
from moeverify.serving.folders import write_folder
from moeverify.serving.served import Asked, serve_pair
from moeverify.verdict import Status

pytestmark = pytest.mark.slow


@pytest.fixture(params=["vllm", "llama.cpp"])
def installed(request):
    """An engine that can be run."""
    found = installation(engine_named(request.param))
    if found.python is None:
        pytest.skip(f"{request.param} is {found.problem}; docs/serving.md installs it")
    return found.engine


@pytest.mark.parametrize("ratios", [{"experts": 0.5}, {"hidden": 0.5}])
def test_a_right_pruning_is_served_as_transformers_runs_it(installed, ratios):
    result = mv.verify("zoo:mixtral", pruning_ratio=0.5, ratios={"heads": 0.0, "hidden": 0.0, **ratios},
                       checks=["served"], engines=[installed.name], engine_ready=True)  # fmt: skip
    (verdict,) = result.verdicts
    assert verdict.status is Status.PASS, verdict.message
    (facts,) = verdict.evidence["engines"]
    assert max(facts["pruned"]) < 1e-3


def test_experts_that_were_not_renumbered_are_told_apart(installed, tmp_path):
    base = write_folder(load_source("zoo:mixtral", engine_ready=True).model, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config["num_local_experts"] = 4
    tensors = {}
    for name, tensor in load_file(base / "model.safetensors").items():
        if ".experts." in name and int(name.partition(".experts.")[2].partition(".")[0]) % 2 == 0:
            continue
        tensors[name] = tensor[1::2].clone() if name.endswith("gate.weight") else tensor
    (tmp_path / "pruned").mkdir()
    (tmp_path / "pruned" / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "pruned" / "model.safetensors", {"format": "pt"})
    (outcome,) = serve_pair(base, tmp_path / "pruned", [installed], Asked())
    assert outcome.status is Status.FAIL, outcome.message
