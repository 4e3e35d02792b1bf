"""Numbers of a router that a plan may lower: only those that the experts left ask for."""

import numpy as np
import pytest

from moeverify.pruning.checkpoint.plan_routing import follows_experts, groups_left
from moeverify.pruning.plan.expert_cut import ExpertCut
from moeverify.pruning.plan.plan import Plan


def plan_of(*kept, before=8, **entries):
    cuts = tuple(ExpertCut(f"layers.{n}", f"layers.{n}.experts", before, np.array(k)) for n, k in enumerate(kept))
    return Plan((), {}, entries={(name,): value for name, value in entries.items()}, experts=cuts)


@pytest.mark.parametrize(
    ("name", "old", "value", "plan", "follows"),
    [
        ("num_experts_per_tok", 4, 3, plan_of([0, 1, 2]), True),
        ("num_experts_per_tok", 4, 2, plan_of([0, 1, 2]), False),  # one more could be chosen
        ("num_experts_per_tok", 2, 3, plan_of([0, 1, 2]), False),
        ("num_experts_per_tok", 4, 3, plan_of(), False),
        ("num_experts_per_tok", 4, 3, plan_of([0, 1, 2], [0, 1, 2, 3]), True),  # the smallest layer decides
        ("n_group", 2, 1, plan_of([4, 5, 6, 7]), True),
        ("n_group", 2, 1, plan_of([0, 1, 4, 5]), False),  # both groups are there
        ("n_group", 4, 2, plan_of([0, 1, 2]), False),  # of different sizes
        ("n_group", 2, 1, plan_of([4, 5, 6, 7], [0, 1, 4, 5]), False),
        ("topk_group", 2, 1, plan_of([4, 5, 6, 7], n_group=1), True),
        ("topk_group", 2, 1, plan_of([4, 5, 6, 7]), False),
        ("rope_theta", 4, 3, plan_of([0, 1, 2]), False),
    ],
)
def test_only_what_the_experts_ask_for(name, old, value, plan, follows):
    assert follows_experts(name, old, value, plan) is follows


def test_groups_of_a_count_that_they_do_not_divide():
    assert groups_left(8, np.array([0, 1]), 3) is None
