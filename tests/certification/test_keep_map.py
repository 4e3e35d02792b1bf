"""The keep map of a pure selection, applied to the base, gives the weights of the pruned folder byte for byte."""

import json

import numpy as np
import pytest
import torch
from foundry import Draft
from pruned_folders import RIGHT, write
from pruned_folders.dropped_layers import keep_layers
from safetensors.torch import load_file, save_file

from moeverify.certification.evidence import Evidence, Options
from moeverify.certification.layer_entries import split_entries
from moeverify.certification.plan_document import write_plan
from moeverify.certification.relations.entries import Entry
from moeverify.certification.relations.values import classes_of
from moeverify.errors import PlanError
from moeverify.models.folder.checkpoint import open_checkpoint
from moeverify.models.folder.inventory import take_inventory
from moeverify.models.module_lists import ListCut
from moeverify.pruning.checkpoint.checkpoint import apply_plan_file

CASES = {case.name: case for case in RIGHT}
EVERYDAY = ("hidden-channels-gpt_oss", "id-table-remapped-deepseek_v4")
# Layouts, groups with biases, channels of each expert, heads, tables, prefixes, layers for further tokens.
SLOW = (
    "channels-of-each-expert-qwen3_moe",
    "channels-of-each-expert-hy_v3",
    "channels-interleaved-gpt_oss",
    "key-value-heads-qwen3_moe",
    "experts-listed-on-disk-llama4_text",
    "experts-ascending-ernie4_5_moe",
    "experts-ascending-granitemoehybrid",
    "whole-group-removed-deepseek_v3",
    "top-k-lowered-as-it-must-be-qwen3_moe",
    "without-prefix-mixtral",
)

# A number of a layer that is gone, left in a list such as moe_layers, changes nothing, and no plan sets it.
PER_LAYER = ("num_hidden_layers", "layer_types", "mlp_layer_types", "layers_block_type", "no_rope_layers")


def weights(folder):
    """Weights under the names of the model, however they are laid out on disk."""
    found = open_checkpoint(folder, take_inventory(folder))
    return {name: found.read(name) for name in found.naming.tensors}


@pytest.mark.parametrize("name", [*EVERYDAY, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_the_plan_makes_the_folder_again(name, tmp_path):
    base, pruned = write(CASES[name], tmp_path)
    evidence = Evidence(base, pruned, Options("none"))
    assert classes_of(evidence).headline in ("pure selection", "selection with permutation")
    apply_plan_file(write_plan(evidence, tmp_path / "plan.json"), str(base), tmp_path / "again")
    again, wanted = weights(tmp_path / "again"), weights(pruned)
    shapes = {name: (values.dtype, values.shape) for name, values in wanted.items()}
    assert {name: (values.dtype, values.shape) for name, values in again.items()} == shapes
    if classes_of(evidence).headline == "pure selection":
        assert [name for name, values in wanted.items() if not torch.equal(values, again[name])] == []


def test_tables_that_choose_by_more_than_the_number_of_an_expert_get_the_choice_of_apply_plan(tmp_path):
    base, pruned = write(CASES["id-table-remapped-deepseek_v4"], tmp_path)
    file = pruned / "model.safetensors"
    tensors = load_file(file)
    name = next(n for n in tensors if n.endswith("tid2eid"))
    kept = torch.tensor([1, 2, 4, 7])
    gone = ~torch.isin(weights(base)[name], kept)
    tensors[name][gone] = torch.randint(0, 4, (int(gone.sum()),), generator=torch.Generator().manual_seed(0))
    save_file(tensors, file, metadata={"format": "pt"})
    plan = write_plan(Evidence(base, pruned, Options("none")), tmp_path / "plan.json")
    layer = name.split(".mlp.")[0] + "."
    items = json.loads(plan.read_text())["experts"]
    assert ["replaced" in item for item in items if item["layer"].startswith(layer)] == [False]
    assert any("replaced" in item for item in items)
    apply_plan_file(plan, str(base), tmp_path / "again")
    again, wanted = weights(tmp_path / "again"), weights(pruned)
    assert [n for n, values in wanted.items() if not torch.equal(values, again[n])] == [name]
    assert torch.equal(again[name][~gone], wanted[name][~gone])
    assert int(again[name].max()) < len(kept)


# Layers alone and beside other cuts: dense first layers, lists of kinds, hybrids, shared experts, listed and sharded.
LAYERS = (
    "layers-and-experts-gpt_oss",
    "layers-of-each-kind-mixtral",
    "layers-of-each-kind-qwen2_moe",
    "layers-of-each-kind-llama4_text",
    "layers-of-each-kind-ernie4_5_moe",
    "layers-of-each-kind-deepseek_v4",
    "layers-and-experts-deepseek_v3",
    "layers-and-experts-hy_v3",
    "layers-and-experts-granitemoehybrid",
    "layers-sharded-qwen3_moe",
    "layers-sharded-nemotron_h",
    "layers-listed-on-disk-deepseek_v3",
    "everything-and-layers-qwen3_moe",
)


@pytest.mark.parametrize("name", [LAYERS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in LAYERS[1:])])
def test_dropped_layers_are_part_of_the_plan(name, tmp_path):
    base, pruned = write(CASES[name], tmp_path)
    evidence = Evidence(base, pruned, Options("none"))
    assert classes_of(evidence).headline == "pure selection"
    plan = write_plan(evidence, tmp_path / "plan.json")
    config = read_config(pruned)
    for in_memory in (False, True):
        again = apply_plan_file(plan, str(base), tmp_path / f"again-{in_memory}", in_memory=in_memory).folder
        found, wanted = weights(again), weights(pruned)
        assert found.keys() == wanted.keys()
        assert [n for n, values in wanted.items() if not torch.equal(values, found[n])] == []
        assert len(list(again.glob("*.safetensors"))) == 1 or "index.json" in "".join(p.name for p in again.iterdir())
        mine = read_config(again)
        assert {key: mine.get(key) for key in PER_LAYER if key in mine} == {
            key: config.get(key) for key in PER_LAYER if key in mine
        }


def read_config(folder):
    return json.loads((folder / "config.json").read_text("utf-8"))


def test_a_layer_for_further_tokens_stays_behind_the_last_one(tmp_path):
    base, pruned = write(CASES["layers-before-one-for-further-tokens-deepseek_v3"], tmp_path)
    for folder, old, new in ((base, 3, 61), (pruned, 2, 60)):  # the number that transformers leaves out on purpose
        file = folder / "model.safetensors"
        tensors = {n.replace(f".{old}.", f".{new}.", 1): t for n, t in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    evidence = Evidence(base, pruned, Options("none"))
    plan = write_plan(evidence, tmp_path / "plan.json")
    wanted = load_file(pruned / "model.safetensors")
    for in_memory in (False, True):
        again = apply_plan_file(plan, str(base), tmp_path / f"again-{in_memory}", in_memory=in_memory).folder
        found = {n: t for file in again.glob("*.safetensors") for n, t in load_file(file).items()}
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], values) for name, values in wanted.items())
        assert read_config(again)["num_nextn_predict_layers"] == 1


def test_layers_that_no_configuration_says_are_refused(tmp_path):
    base = Draft.of("jamba")
    base.write(tmp_path / "base")
    keep_layers(base.copy(), [0, 1, 3]).write(tmp_path / "pruned")  # experts in every second layer, from the second on
    with pytest.raises(PlanError, match=r"model.layers.2, as its configuration builds it, is none of") as caught:
        write_plan(Evidence(tmp_path / "base", tmp_path / "pruned", Options("none")), tmp_path / "plan.json")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "plan.json").exists()


def test_entries_that_do_not_give_the_kept_layers_are_refused(tmp_path):
    skeleton = open_checkpoint(Draft.of("deepseek_v3").write(tmp_path / "base")).skeleton
    fewer = Entry(("num_hidden_layers",), 3, 2)
    layers = [ListCut.of_numbers("model.layers", 3, np.array([1, 2]))]
    with pytest.raises(
        PlanError, match=r"DeepseekV3Config has no model of the layers that were kept: it has no model\."
    ):
        split_entries(skeleton, [fewer], layers)
    found = split_entries(
        skeleton, [fewer, Entry(("first_k_dense_replace",), 1, 0), Entry(("hidden_size",), 52, 4)], layers
    )
    assert found.layers == {("num_hidden_layers",): 2, ("first_k_dense_replace",): 0}
    assert found.sizes == {("hidden_size",): 4}


def test_layers_in_another_order_are_no_plan(tmp_path):
    base = Draft.of("mixtral")
    base.write(tmp_path / "base")
    keep_layers(base.copy(), [2, 0]).write(tmp_path / "pruned")
    with pytest.raises(PlanError, match=r"entries of model.layers are \[2, 0\] of the base, no plan repeats or moves"):
        write_plan(Evidence(tmp_path / "base", tmp_path / "pruned", Options("none")), tmp_path / "plan.json")
