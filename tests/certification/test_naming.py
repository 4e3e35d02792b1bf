"""One naming for every layout on disk, and what does not belong to the model."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from moeverify.errors import SourceError
from moeverify.models.folder.assembly import name_tensors
from moeverify.models.folder.inventory import take_inventory
from moeverify.models.folder.reader import Reader
from moeverify.models.folder.skeleton import build_skeleton
from moeverify.models.zoo import build_zoo


def naming_of(folder):
    return name_tensors(take_inventory(folder).tensors, build_skeleton(folder), Reader())


def save(folder, model, tensors):
    folder.mkdir(exist_ok=True)
    model.config.save_pretrained(folder)
    contiguous = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


# listed on disk and fused in memory; fused with biases and interleaved; transposed; expert-major; a hybrid; listed
TYPES = ["qwen3_moe", "gpt_oss", "llama4_text", "dbrx", "nemotron_h", "granitemoehybrid", "deepseek_v3", "inkling_text"]


@pytest.mark.parametrize("model_type", TYPES)
def test_what_is_read_is_the_model(model_type, tmp_path):
    model = build_zoo(model_type)
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    naming, values = naming_of(tmp_path), model.state_dict()
    assert (naming.missing, naming.unexpected, naming.broken, naming.misnumbered) == ((), (), {}, ())
    for name, assembly in naming.tensors.items():
        assert torch.equal(assembly.read(), values[name]), name
        if assembly.sliced:
            assert all(torch.equal(assembly.read(n), values[name][n]) for n in range(assembly.shape[0])), name


def test_fused_names_on_disk_are_the_same_model(tmp_path):
    model = build_zoo("qwen3_moe")
    model.save_pretrained(tmp_path / "listed")
    save(tmp_path / "fused", model, model.state_dict())
    listed, fused = naming_of(tmp_path / "listed"), naming_of(tmp_path / "fused")
    assert len(take_inventory(tmp_path / "fused").tensors) < len(take_inventory(tmp_path / "listed").tensors)
    assert listed.tensors.keys() == fused.tensors.keys()
    assert all(torch.equal(a.read(), fused.tensors[n].read()) for n, a in listed.tensors.items())


def test_a_checkpoint_of_the_body_alone_gets_its_prefix(tmp_path):
    model = build_zoo("mixtral")
    body = {name.removeprefix("model."): tensor for name, tensor in model.state_dict().items()}
    naming = naming_of(save(tmp_path / "body", model, body))
    assert not naming.missing
    assert not naming.unexpected


def test_what_is_missing_unexpected_and_misshapen(tmp_path):
    model = build_zoo("mixtral")
    tensors = dict(model.state_dict())
    tensors.pop("model.norm.weight")
    tensors["backbone.norm.weight"] = torch.ones(4)
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:, :-1]
    naming = naming_of(save(tmp_path / "m", model, tensors))
    assert naming.missing == ("model.norm.weight",)
    assert naming.unexpected == ("backbone.norm.weight",)
    assert "config.json implies" in naming.broken["lm_head.weight"]


def test_experts_that_were_not_renumbered(tmp_path):
    model = build_zoo("qwen3_moe")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    last = model.config.num_experts - 1
    moved = {name.replace(f"experts.{last}.", f"experts.{last + 3}."): tensor for name, tensor in tensors.items()}
    save_file(moved, tmp_path / "model.safetensors", metadata={"format": "pt"})
    naming = naming_of(tmp_path)
    assert not naming.missing
    assert any("are numbered" in line for line in naming.misnumbered)


def test_an_expert_without_one_of_its_matrices(tmp_path):
    build_zoo("qwen3_moe").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.0.mlp.experts.1.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    naming = naming_of(tmp_path)
    assert list(naming.broken) == ["model.layers.0.mlp.experts.gate_up_proj"]
    assert "cannot be put together" in naming.broken["model.layers.0.mlp.experts.gate_up_proj"]


def test_layers_for_multi_token_prediction_are_left_out_on_purpose(tmp_path):
    model = build_zoo("deepseek_v3")
    layers = model.config.num_hidden_layers
    extra = {f"model.layers.{layers}.eh_proj.weight": torch.ones(4, 4)}
    naming = naming_of(save(tmp_path / "mtp", model, {**model.state_dict(), **extra}))
    names = (*naming.ignored, *naming.unexpected)
    assert names == tuple(extra)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "no_such_type"},
        {"model_type": "qwen3_moe", "num_hidden_layers": 10**9},
        {"model_type": "qwen3_moe", "hidden_size": "wide"},
        {"model_type": "qwen3_moe", "num_attention_heads": 0},
        {"model_type": 7},
        {},
    ],
)
def test_a_configuration_that_is_no_model(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SourceError) as error:
        build_skeleton(tmp_path)
    assert "\n" not in str(error.value)
