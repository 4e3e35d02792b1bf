"""Recovery of the keep map from content: experts, channels, hidden channels, layers, alone and together."""

from collections import Counter

import numpy as np
import pytest
import torch
from everyday import everyday
from foundry import Draft

from moeverify.certification.matching.compare import Relation, compare_all
from moeverify.certification.matching.keys import hash_rows, match
from moeverify.certification.matching.recover import recover
from moeverify.certification.structure.structure import structure_of
from moeverify.models.folder.checkpoint import open_checkpoint

# type: (entry that counts experts, entry of their width, width, transposed, interleaved)
TYPES = {
    "qwen3_moe": ("num_local_experts", "moe_intermediate_size", 32, False, False),
    "deepseek_v3": ("n_routed_experts", "moe_intermediate_size", 32, False, False),
    "gpt_oss": ("num_local_experts", "intermediate_size", 56, True, True),
    "llama4_text": ("num_local_experts", "", 56, True, False),
    "ernie4_5_moe": ("moe_num_experts", "moe_intermediate_size", 32, False, False),
    "hy_v3": ("num_experts", "moe_intermediate_size", 32, False, False),
    "granitemoehybrid": ("num_local_experts", "", 56, False, False),
    "nemotron_h": ("n_routed_experts", "", 32, False, False),
    "gemma4_text": ("num_experts", "moe_intermediate_size", 32, False, False),
}
# Shared experts are as wide as so many routed ones.
SHARED = {"deepseek_v3": "n_shared_experts", "hy_v3": "num_shared_experts", "ernie4_5_moe": "moe_num_shared_experts"}


def examine(folder):
    base, pruned = open_checkpoint(folder / "base"), open_checkpoint(folder / "pruned")
    assert not pruned.naming.broken
    assert not pruned.naming.missing
    keep = recover(base, pruned, structure_of(base.skeleton))
    return keep, list(compare_all(base, pruned, keep))


def relations(found):
    return Counter(item.relation for item in found)


def wrong(found):
    return [(item.where, item.relation, item.detail) for item in found if item.relation is not Relation.EQUAL]


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("model_type", everyday(TYPES, {"qwen3_moe", "gpt_oss", "nemotron_h"}))
def test_experts_in_any_order(model_type, listed, tmp_path):
    kept = [6, 1, 4, 3]
    base = Draft.of(model_type)
    base.write(tmp_path / "base", listed=not listed, shards="60KB")
    base.copy().keep_experts(kept, count=TYPES[model_type][0]).write(tmp_path / "pruned", listed=listed)
    keep, found = examine(tmp_path)
    assert wrong(found) == []
    assert keep.experts
    assert all(experts.tolist() == kept for experts in keep.experts.values())


@pytest.mark.parametrize(
    "model_type", everyday([t for t, spec in TYPES.items() if spec[1]], {"deepseek_v3", "gpt_oss"})
)
def test_experts_their_channels_and_hidden_channels_together(model_type, tmp_path):
    count, width, size, transposed, interleaved = TYPES[model_type]
    generator = torch.Generator().manual_seed(5)
    base = Draft.of(model_type)
    hidden = base.config.hidden_size
    base.write(tmp_path / "base")
    own = [torch.randperm(size, generator=generator)[: size // 2].tolist() for _ in range(8)]
    kept = torch.randperm(hidden, generator=generator)[: hidden // 2].tolist()
    draft = base.copy().keep_channels(own, size, transposed=transposed, interleaved=interleaved)
    draft.keep_experts([5, 0, 2, 7], count=count).set(**{width: size // 2})
    if model_type in SHARED:
        draft.set(**{SHARED[model_type]: 2 * getattr(base.config, SHARED[model_type])})
    if model_type != "gemma4_text":  # its hidden size is that of other dimensions too
        draft.keep_hidden(kept, hidden)
    draft.write(tmp_path / "pruned", listed=True, shards="60KB")
    keep, found = examine(tmp_path)
    assert wrong(found) == []
    assert all(experts.tolist() == [5, 0, 2, 7] for experts in keep.experts.values())
    for number, item in enumerate(keep.structure.classes):
        if item.role == "routed_experts":
            assert keep.units[number].tolist() == [own[e] for e in [5, 0, 2, 7]]


def test_channels_sorted_by_importance_although_none_was_removed(tmp_path):
    base = Draft.of("qwen3_moe")
    base.write(tmp_path / "base")
    order = torch.randperm(48, generator=torch.Generator().manual_seed(1)).tolist()
    base.copy().keep_hidden(order, 48).write(tmp_path / "pruned")
    keep, found = examine(tmp_path)
    assert wrong(found) == []
    assert order in [units.tolist() for units in keep.units.values()]


@pytest.mark.parametrize("layers", [[0, 2], [1, 2], [2]])
def test_layers_that_were_dropped_and_renumbered(layers, tmp_path):
    base = Draft.of("mixtral")
    base.write(tmp_path / "base")
    draft = base.copy().set(num_hidden_layers=len(layers))
    inside = {n: t for n, t in draft.tensors.items() if ".layers." in n}
    draft.tensors = {n: t for n, t in draft.tensors.items() if n not in inside}
    for new, old in enumerate(layers):
        mine = {n: t for n, t in inside.items() if f".layers.{old}." in n}
        draft.tensors |= {n.replace(f".{old}.", f".{new}.", 1): t for n, t in mine.items()}
    draft.keep_experts([7, 3, 2], count="num_local_experts").write(tmp_path / "pruned")
    keep, found = examine(tmp_path)
    assert wrong(found) == []
    assert keep.lists["model.layers"].tolist() == layers
    assert {n: e.tolist() for n, e in keep.experts.items()} == {layer: [7, 3, 2] for layer in layers}


def test_bfloat16_copies_are_casts(tmp_path):
    base = Draft.of("qwen3_moe")
    base.write(tmp_path / "base")
    base.copy().keep_experts([0, 5, 3], count="num_local_experts").cast(torch.bfloat16).write(tmp_path / "pruned")
    keep, found = examine(tmp_path)
    assert set(relations(found)) == {Relation.CAST}
    assert all(experts.tolist() == [0, 5, 3] for experts in keep.experts.values())


def test_values_rounded_and_stored_long_again(tmp_path):
    base = Draft.of("qwen3_moe")
    base.write(tmp_path / "base")
    draft = base.copy().cast(torch.bfloat16).cast(torch.float32)
    draft.write(tmp_path / "pruned")
    assert set(relations(examine(tmp_path)[1])) == {Relation.ROUNDED}


def test_rows_that_are_equal_are_matched_by_their_neighbours(tmp_path):
    base = Draft.of("gpt_oss")
    for name in base.tensors:
        if name.endswith("norm.weight"):
            base.tensors[name].fill_(1.0)
        elif "bias" in name:
            base.tensors[name].zero_()
    for name in base.names("router.weight"):
        base.tensors[name][3] = base.tensors[name][6]  # two experts that the router cannot tell apart
    base.write(tmp_path / "base")
    base.copy().keep_experts([6, 0, 3], count="num_local_experts").write(tmp_path / "pruned")
    keep, found = examine(tmp_path)
    assert wrong(found) == []
    assert all(experts.tolist() == [6, 0, 3] for experts in keep.experts.values())


def test_a_table_of_expert_numbers_is_remapped_not_sliced(tmp_path):
    base = Draft.of("deepseek_v4")
    base.write(tmp_path / "base")
    kept = [4, 1, 6, 2]
    place = torch.full((8,), -1)
    place[torch.tensor(kept)] = torch.arange(4)
    draft = base.copy().keep_experts(kept, count="n_routed_experts")
    for name in draft.names("tid2eid"):
        now = place[draft.tensors[name]]
        draft.tensors[name] = torch.where(now < 0, torch.zeros_like(now), now)
    draft.write(tmp_path / "pruned")
    assert wrong(examine(tmp_path)[1]) == []
    stale = base.copy().keep_experts(kept, count="n_routed_experts")
    stale.write(tmp_path / "stale" / "pruned")
    base.write(tmp_path / "stale" / "base")
    faults = wrong(examine(tmp_path / "stale")[1])
    assert {where.rpartition(".")[2] for where, _, _ in faults} == {"tid2eid"}
    assert "not renumbered" in faults[0][2]


def test_match_hands_equal_keys_out_in_ascending_order():
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]])
    keys = hash_rows(rows)
    found, several = match(hash_rows(rows[[0, 2, 1]]), keys)
    assert found.tolist() == [0, 2, 1]
    assert several.tolist() == [True, True, False]
    assert match(hash_rows(torch.tensor([[2.0, 1.0]])), keys)[0].tolist() == [-1]


def test_keys_tell_positions_and_signs_of_zero_apart():
    rows = torch.tensor([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0], [float("nan"), 1.0]])
    assert len(np.unique(hash_rows(rows))) == 4
