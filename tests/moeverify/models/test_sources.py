"""Sources: what loads, and one line for what does not."""

import json
import shutil

import pytest
import torch

from moeverify.errors import SourceError, UsageError
from moeverify.models.sources import DEFAULT, expand_sources, load_source, parse_dtype, source_kind
from moeverify.models.zoo import build_zoo


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    build_zoo("mixtral", seed=3).save_pretrained(folder)
    return folder


def test_a_checkpoint_folder_loads_with_its_weights(checkpoint):
    loaded = load_source(str(checkpoint))
    same = build_zoo("mixtral", seed=3)
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), same.parameters(), strict=True))
    assert loaded.model(**loaded.example_inputs).logits.isfinite().all()


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def no_config(folder):
    (folder / "config.json").unlink()


def cut_config(folder):
    path = folder / "config.json"
    path.write_text(path.read_text("utf-8")[:50], "utf-8")


def edit_config(folder, **entries):
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({k: v for k, v in {**config, **entries}.items() if v is not None}), "utf-8")


def no_model_type(folder):
    edit_config(folder, model_type=None)


def unknown_model_type(folder):
    edit_config(folder, model_type="no_such_model", architectures=["NoSuchModel"])


def other_size(folder):
    edit_config(folder, hidden_size=32)


def more_layers(folder):
    edit_config(folder, num_hidden_layers=5)


def pickled_weights(folder):
    no_weights(folder)
    torch.save({}, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_weights, "SafetensorError|incomplete|header"),
        (no_weights, "model.safetensors"),
        (no_config, "has no config.json"),
        (cut_config, "not valid JSON"),
        (no_model_type, "no model_type"),
        (unknown_model_type, "no_such_model"),
        (other_size, "mismatch|size"),
        (more_layers, "missing keys such as"),
        (pickled_weights, "safetensors"),
    ],
)
def test_a_broken_checkpoint_is_one_line(damage, message, checkpoint, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(checkpoint, folder)
    damage(folder)
    with pytest.raises(SourceError, match=message) as caught:
        load_source(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("zoo:no_such", "no_such"),
        ("synthetic:no_such", "no synthetic model 'no_such'"),
        ("synthetic:no_such.json", "cannot read no_such.json"),
        ("stand_ins:raises", "ZeroDivisionError: by design"),
        ("stand_ins:not_a_model", "returned a str where a torch.nn.Module was expected"),
        ("stand_ins:missing", "has no attribute 'missing'"),
        ("no_such_module:make", "No module named 'no_such_module'"),
        ("no-such-owner/no-such-model", "cannot load no-such-owner/no-such-model"),
    ],
)
def test_a_source_that_cannot_be_loaded_is_one_line(name, message):
    with pytest.raises(SourceError, match=message) as caught:
        load_source(name)
    assert "\n" not in str(caught.value)


def test_a_broken_specification_is_one_line(tmp_path):
    path = tmp_path / "spec.json"
    path.write_text('{"router": "no_such"}', "utf-8")
    with pytest.raises(SourceError, match="not a model specification"):
        load_source(f"synthetic:{path}")


def test_kinds_of_sources_are_recognised_by_name_without_loading(tmp_path):
    assert source_kind("zoo:mixtral") == ("zoo", "mixtral")
    assert source_kind(str(tmp_path)) == ("folder", str(tmp_path))
    assert source_kind("owner/name") == ("hub", "owner/name")
    assert source_kind("package.module:factory") == ("factory", "package.module:factory")
    for name in ("mixtral", "./no/such/folder", "/no/such/folder", ""):
        with pytest.raises(SourceError, match="no such source"):
            source_kind(name)


def test_names_that_stand_for_several():
    names = expand_sources()
    assert {"zoo:qwen2_moe", "zoo:qwen3_moe", "zoo:mixtral"} <= set(names)
    assert set(DEFAULT[1:]) <= set(names)
    assert sum(name.startswith("synthetic:") for name in names) >= 4
    assert len(expand_sources(["zoo:all", "zoo:mixtral"])) >= 55


def test_the_seed_draws_other_weights_and_the_type_is_kept():
    first, again, other = (load_source("zoo:mixtral", seed=seed, dtype=torch.bfloat16) for seed in (0, 0, 1))
    weights = [x.model.model.embed_tokens.weight for x in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert weights[0].dtype is torch.bfloat16
    with pytest.raises(UsageError, match="unknown dtype 'int4'"):
        parse_dtype("int4")
