"""``ratio/the-best-removed``"""

import torch_pruning as tp

from moeverify.coupling.classify import ROLES
from moeverify.pruning.pruner import MoEPruner
from moeverify.subjects.faults.registry import fault


@fault(
    "small",
    {"quality": r"worse than 0\.\d+ with as many channels removed at random"},
    pruning_ratio=0.5,
    needs=("lm_eval",),
)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Scores are read the wrong way round: the experts' most important channels are removed."""
    magnitude = tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean")
    MoEPruner(
        model,
        example_inputs,
        importance=lambda group: -magnitude(group),
        pruning_ratio=pruning_ratio,
        ignored_layers=[model.lm_head],
        round_to=4,
        ratios={role: 0.0 for role in ROLES if role != "routed_experts"},
    ).step()
