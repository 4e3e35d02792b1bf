"""``experts/one-layer-left``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_experts import Removal


@fault(
    "zoo:mixtral", {"config-in-step": r"the configuration gives .*layers\.0\.mlp.* \(2, .*, in the model it has \(4, "}
)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """One MoE layer keeps all of its experts."""
    work = Removal(model, example_inputs, seed=seed)
    for ending in ("gate.weight", "experts.gate_up_proj", "experts.down_proj"):
        work.recut(ending, range(len(work.kept) + len(work.gone)))
    return work.outcome
