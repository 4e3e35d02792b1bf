"""Inventory: index and shards agree both ways; what lies in the folder is what a loader takes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from foundry import Draft
from safetensors.torch import load_file, save_file

from moeverify.errors import SourceError
from moeverify.models.folder.inventory import INDEX, resolve_folder, take_inventory
from moeverify.models.zoo import build_zoo


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    build_zoo("qwen3_moe").save_pretrained(folder, max_shard_size="200KB")
    return folder


@pytest.fixture
def folder(sharded, tmp_path):
    return shutil.copytree(sharded, tmp_path / "model")


def edit_index(folder, change):
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def first_shard(folder):
    return sorted(folder.glob("*.safetensors"))[0]


def rewrite(folder, change):
    tensors = load_file(first_shard(folder))
    change(tensors)
    save_file(tensors, first_shard(folder), metadata={"format": "pt"})


def test_a_saved_model_has_no_problem(sharded):
    inventory = take_inventory(sharded)
    assert inventory.problems == ()
    assert len(inventory.files) > 2
    assert inventory.model_type == "qwen3_moe"
    assert inventory.nbytes == sum(p.numel() * p.element_size() for p in build_zoo("qwen3_moe").parameters())


def drop_a_shard(folder):
    first_shard(folder).unlink()


def drop_all_shards(folder):
    for shard in folder.glob("*.safetensors"):
        shard.unlink()


def stray_shard(folder):
    save_file({"left.over": torch.ones(2)}, folder / "model-00009-of-00009.safetensors")


def twice(folder):
    name = next(iter(load_file(first_shard(folder))))
    other = sorted(folder.glob("*.safetensors"))[1]
    save_file({**load_file(other), name: load_file(first_shard(folder))[name]}, other, metadata={"format": "pt"})


def not_in_the_shard(folder):
    rewrite(folder, lambda tensors: tensors.pop(next(iter(tensors))))


def not_in_the_index(folder):
    edit_index(folder, lambda weights: weights.pop(next(iter(weights))))


def index_names_another_file(folder):
    def change(weights):
        files = sorted(set(weights.values()))
        name = next(n for n, f in weights.items() if f == files[0])
        weights[name] = files[1]

    edit_index(folder, change)


def index_leaves_the_folder(folder):
    edit_index(folder, lambda weights: weights.update({next(iter(weights)): "../../secret.safetensors"}))


def shard_in_a_sub_folder(folder):
    shard = first_shard(folder)
    (folder / "part").mkdir()
    shard.rename(folder / "part" / shard.name)
    edit_index(folder, lambda w: w.update({name: f"part/{file}" for name, file in w.items() if file == shard.name}))


def index_is_no_json(folder):
    (folder / INDEX).write_text("{")


def index_without_map(folder):
    (folder / INDEX).write_text('{"weight_map": 3}')


def whole_file_beside_the_shards(folder):
    save_file({"model.norm.weight": torch.ones(4)}, folder / "model.safetensors")


def no_index(folder):
    (folder / INDEX).unlink()


def truncated(folder):
    first_shard(folder).write_bytes(first_shard(folder).read_bytes()[:-100])


def no_config(folder):
    (folder / "config.json").unlink()


def config_is_a_list(folder):
    (folder / "config.json").write_text("[]")


def config_without_type(folder):
    (folder / "config.json").write_text("{}")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (drop_a_shard, "is named in model.safetensors.index.json but missing"),
        (drop_all_shards, "is named in model.safetensors.index.json but missing"),
        (stray_shard, "is a stray shard"),
        (twice, " and in "),
        (not_in_the_shard, "which does not hold it"),
        (not_in_the_index, "but not in model.safetensors.index.json"),
        (index_names_another_file, "which does not hold it; it is in"),
        (index_leaves_the_folder, "outside of the folder"),
        (shard_in_a_sub_folder, "in a sub-folder, where most loaders do not look"),
        (index_is_no_json, "not valid JSON"),
        (index_without_map, "no weight_map"),
        (whole_file_beside_the_shards, "lies beside"),
        (no_index, "neither model.safetensors nor"),
        (truncated, "lie outside of the file"),
        (no_config, "config.json is missing"),
        (config_is_a_list, "config.json is no JSON object"),
        (config_without_type, "has no model_type"),
    ],
)
def test_a_fault_is_named(folder, spoil, expected):
    spoil(folder)
    problems = take_inventory(folder).problems
    assert any(expected in line for line in problems), problems
    assert all("\n" not in line for line in problems)


def test_a_second_copy_for_another_program_is_no_fault(folder):
    save_file({"tok_embeddings.weight": torch.ones(2)}, folder / "consolidated.safetensors")
    inventory = take_inventory(folder)
    assert inventory.problems == ()
    assert "tok_embeddings.weight" not in inventory.tensors
    assert "second copy" in inventory.notes[0]


def test_other_formats_are_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(SourceError, match=r"PyTorch pickles \(pytorch_model.bin\).*save_pretrained"):
        take_inventory(tmp_path)


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(SourceError, match="holds no"):
        take_inventory(tmp_path)


def test_names_that_are_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for name, expected in [(tmp_path / "file", "is a file"), (tmp_path / "none", "no such folder")]:
        with pytest.raises(SourceError, match=expected):
            resolve_folder(name)


@pytest.mark.slow
def test_hub_names_are_taken_from_the_cache(tmp_path):
    """A cached repository is a folder of links into another one, and only what is read is asked for."""
    base = Draft.of("qwen3_moe")
    base.write(tmp_path / "base", shards="60KB")
    base.copy().keep_experts([1, 2, 4, 7], count="num_local_experts").write(tmp_path / "pruned")
    cache = tmp_path / "cache"
    for name in ("base", "pruned"):
        repository, commit = cache / f"models--org--{name}", "0" * 40
        snapshot = repository / "snapshots" / commit
        for folder in (repository / "blobs", repository / "refs", snapshot):
            folder.mkdir(parents=True)
        (repository / "refs" / "main").write_text(commit)
        for file in (tmp_path / name).iterdir():
            blob = file.rename(repository / "blobs" / f"{name}-{file.name}-blob")
            (snapshot / file.name).symlink_to(Path("..", "..", "blobs", blob.name))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    command = [sys.executable, "-m", "moeverify", "certify", "org/base", "org/pruned", "--oracle", "none"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "pure selection" in done.stdout
    missing = subprocess.run(
        [*command[:5], "org/none", "--oracle", "none"], capture_output=True, text=True, env=environment
    )
    assert missing.returncode == 2
    assert "cannot fetch org/none from the hub" in missing.stderr
