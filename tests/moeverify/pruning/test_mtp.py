"""Layers that predict further tokens, which transformers does not load: kept while they fit, else left out by name."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from moeverify.models.stored import INDEX, read_stored
from moeverify.models.zoo import build_zoo
from moeverify.pruning.checkpoint.checkpoint import apply_plan_file, prune_checkpoint

LAYER = "model.layers.61"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A DeepSeek-V3 with the MTP layer of the published one: an MoE layer and what joins it to the trunk."""
    folder = tmp_path_factory.mktemp("mtp") / "model"
    build_zoo("deepseek_v3").save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    size = tensors["model.norm.weight"].shape[0]
    last = max(int(name.split(".")[2]) for name in tensors if name.startswith("model.layers."))
    copied = f"model.layers.{last}."
    mtp = {n.replace(copied, f"{LAYER}."): value.clone() for n, value in tensors.items() if n.startswith(copied)}
    mtp |= {f"{LAYER}.eh_proj.weight": torch.randn(size, 2 * size), f"{LAYER}.enorm.weight": torch.ones(size)}
    save_file({**tensors, **mtp}, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "num_nextn_predict_layers": 1}))
    return folder, mtp


def announced(folder):
    return json.loads((folder / "config.json").read_text("utf-8"))["num_nextn_predict_layers"]


def test_kept_byte_by_byte_where_the_sizes_still_fit(base, tmp_path):
    folder, mtp = base
    ratios = dict.fromkeys(("hidden", "heads", "routed_experts", "shared_experts", "other"), 0.0)
    done = prune_checkpoint(str(folder), tmp_path / "out", pruning_ratio=0.5, ratios=ratios)
    assert f"{len(mtp)} tensors" in done.notes[0]
    assert "kept as they are" in done.notes[0]
    saved = read_stored(done.folder)
    assert mtp.keys() <= saved.files.keys()
    kept = {name: load_file(saved.files[name])[name] for name in mtp}
    assert all(torch.equal(kept[name], value) for name, value in mtp.items())
    assert announced(done.folder) == 1
    assert json.loads((done.folder / INDEX).read_text("utf-8"))["weight_map"].keys() == saved.files.keys()


@pytest.mark.parametrize("role", ["hidden", "experts", "heads"])
def test_left_out_with_a_warning_where_they_do_not(role, base, tmp_path):
    folder, mtp = base
    roles = ("hidden", "heads", "routed_experts", "shared_experts", "dense_mlp", "other")
    # Routed and shared experts have one entry for their size, so they go together.
    ratios = {name: 0.5 if name.partition("_")[2] == "experts" == role or name == role else 0.0 for name in roles}
    with pytest.warns(UserWarning, match="were left out, since they no longer fit"):
        done = prune_checkpoint(str(folder), tmp_path / "out", ratios=ratios)
    assert "num_nextn_predict_layers set to 0" in done.notes[0]
    assert mtp.keys().isdisjoint(read_stored(done.folder).files)
    assert announced(done.folder) == 0
    assert announced(folder) == 1


@pytest.mark.filterwarnings("ignore:\\d+ tensors")
def test_a_plan_makes_the_same_of_them(base, tmp_path):
    folder, _ = base
    done = prune_checkpoint(str(folder), tmp_path / "out")
    again = apply_plan_file(done.folder / "pruning_plan.json", str(folder), tmp_path / "again")
    assert again.notes == done.notes
    for file in done.folder.iterdir():
        assert (again.folder / file.name).read_bytes() == file.read_bytes()
