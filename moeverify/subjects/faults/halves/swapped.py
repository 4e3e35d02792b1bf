"""``halves/swapped``"""

import torch

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault(
    "zoo:qwen3_moe",
    {
        "untouched-identical": r"gate_up_proj dim 1: kept channels are out of order",
        "masked-equivalence": r"differs from the masked original",
    },
)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The halves of a fused gate and up projection change places."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    work.edit(work.name("experts.gate_up_proj"), lambda values: torch.cat(values.chunk(2, dim=1)[::-1], dim=1))
    return work.outcome
