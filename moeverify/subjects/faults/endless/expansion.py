"""``endless/expansion``"""

import torch_pruning as tp
from torch_pruning.dependency import Dependency, Node

from moeverify.subjects.faults.registry import fault


@fault(
    "zoo:qwen3_moe",
    {"terminates": r"exceeded MAX_EXPANSIONS=200,000.*get_pruning_group|exceeded MAX_EXPANSIONS"},
    seconds=120.0,
)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """A group that grows round a cycle without end, as stock Torch-Pruning's do on rotary attention."""
    group = tp.dependency.Group()
    node = Node(model, None, "rotate_half")
    turn = Dependency(tp.prune_linear_out_channels, tp.prune_linear_out_channels, node, node)
    indices = [0]
    while not group.has_pruning_op(turn, indices):
        group.add_dep(turn, indices)
        indices = [index + 1 for index in indices]
