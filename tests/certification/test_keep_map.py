"""The keep map of a pure selection, applied to the base, gives the weights of the pruned folder byte for byte."""

import pytest
import torch
from pruned_folders import RIGHT, write

from moeverify.certification.evidence import Evidence, Options
from moeverify.certification.plan_document import write_plan
from moeverify.certification.relations.values import classes_of
from moeverify.errors import PlanError
from moeverify.models.folder.checkpoint import open_checkpoint
from moeverify.models.folder.inventory import take_inventory
from moeverify.pruning.checkpoint.checkpoint import apply_plan_file

pytestmark = pytest.mark.usefixtures("reload_process")

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
        differing = {name for name, values in wanted.items() if not torch.equal(values, again[name])}
        assert {name for name in differing if not name.endswith("tid2eid")} == set()
        for name in differing:  # whom a removed expert is replaced by is the choice of who renumbers
            stayed = torch.isin(weights(base)[name], torch.tensor(sorted(evidence.keep.experts[0].tolist())))
            assert torch.equal(again[name][stayed], wanted[name][stayed])
            assert int(again[name].max()) < len(evidence.keep.experts[0])


def test_dropped_layers_are_refused_in_words(tmp_path):
    evidence = Evidence(*write(CASES["layers-mixtral"], tmp_path), Options("none"))
    assert classes_of(evidence).headline == "pure selection"
    with pytest.raises(PlanError, match=r"entries of model.layers were removed, which a plan cannot express; --json -"):
        write_plan(evidence, tmp_path / "plan.json")
