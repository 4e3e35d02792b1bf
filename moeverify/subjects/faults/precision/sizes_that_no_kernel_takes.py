"""``precision/sizes-that-no-kernel-takes``"""

import numpy as np
import torch

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault(
    "zoo:qwen3_moe",
    {"kernel-ready": r"original runs with grouped_mm experts in bfloat16, the pruned model does not"},
    dtype="bfloat16",
)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Experts lose one channel more: fine in float32, but in bfloat16 grouped kernels want multiples of eight."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    for down in work.names("experts.down_proj"):
        gate_up = down.replace("down_proj", "gate_up_proj")
        half = work.original.get_parameter(gate_up).shape[1] // 2
        units = [work.kept(down, 2, expert)[1:] for expert in range(4)]
        work.put(down, torch.stack([work.part(down, {2: u}, e) for e, u in enumerate(units)]))
        rows = [np.concatenate([u, u + half]) for u in units]
        work.put(gate_up, torch.stack([work.part(gate_up, {1: r}, e) for e, r in enumerate(rows)]))
        model.get_submodule(down.rpartition(".")[0]).intermediate_dim = len(units[0])
    model.config.moe_intermediate_size = len(units[0])
    return work.outcome
