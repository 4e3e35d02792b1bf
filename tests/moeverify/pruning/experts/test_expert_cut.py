"""Lists of experts are shortened and renumbered, tables of ids renumbered, whatever order they come in."""

import numpy as np
import torch
from torch import nn

from moeverify.pruning.plan.expert_cut import ExpertCut, remove_experts, renumbered


class Numbered(nn.Module):
    def __init__(self, number):
        super().__init__()
        self.number = number
        self.level = 7
        self.up = nn.Linear(3, number + 1)


def test_experts_move_up_with_the_numbers_they_hold():
    block = nn.Module()
    block.experts = nn.ModuleList(Numbered(n) for n in range(4))
    cut = ExpertCut("", "experts", 4, np.array([1, 3]), ("0", "1", "2", "3"))
    remove_experts(block, [cut])
    assert [expert.up.out_features for expert in block.experts] == [2, 4]
    assert [expert.number for expert in block.experts] == [0, 1]
    assert [expert.level for expert in block.experts] == [7, 7]
    assert [name for name, _ in block.named_parameters()] == [
        f"experts.{n}.up.{leaf}" for n in range(2) for leaf in ("weight", "bias")
    ]


def test_experts_in_a_dictionary_keep_its_names():
    block = nn.Module()
    block.experts = nn.ModuleDict({f"expert_{n}": Numbered(n) for n in range(3)})
    remove_experts(block, [ExpertCut("", "experts", 3, np.array([2]), ("expert_0", "expert_1", "expert_2"))])
    assert list(block.experts) == ["expert_0"]
    assert block.experts["expert_0"].up.out_features == 3


def test_ids_of_kept_experts_get_their_new_numbers():
    table = torch.tensor([[4, 1], [1, 4]])
    assert renumbered(table, np.array([1, 4]), 5).tolist() == [[1, 0], [0, 1]]


def test_ids_of_removed_experts_become_kept_ones_that_the_row_does_not_name():
    generator = torch.Generator().manual_seed(0)
    table = torch.rand(200, 9, generator=generator).argsort(-1)[:, :3].to(torch.int32)
    kept = np.array([0, 2, 5, 6])
    new = renumbered(table, kept, 9)
    assert new.dtype is torch.int32
    assert all(len(set(row)) == 3 for row in new.tolist())
    assert int(new.min()) == 0
    assert int(new.max()) == 3
    stayed = np.isin(table.numpy(), kept)
    assert (kept[new.numpy()] == table.numpy())[stayed].all()


def test_a_vector_of_ids_has_one_for_each_token():
    assert renumbered(torch.tensor([0, 1, 2]), np.array([0, 2]), 3).tolist() == [0, 1, 1]


def test_a_plan_may_name_who_takes_the_place_of_a_removed_expert():
    table = torch.tensor([[0, 1], [2, 3], [3, 1]])
    cut = ExpertCut("", "experts", 4, np.array([0, 2]), replaced={1: 0, 3: 2})
    assert cut.renumbered(table).tolist() == [[0, 0], [1, 1], [1, 0]]
