"""``forgotten/shared-expert``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("zoo:qwen2_moe", {"ratio-honoured": r"shared_expert\.\w+\.weight keeps 40 of 40"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The shared experts keep all their inner channels, in the configuration, too."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    for name in work.names("shared_expert.gate_proj.weight"):
        work.recut(name, {0: range(40)})
        work.recut(name.replace("gate", "up"), {0: range(40)})
        work.recut(name.replace("gate", "down"), {1: range(40)})
    for module in model.modules():
        if hasattr(module, "intermediate_size") and module.intermediate_size == 20:
            module.intermediate_size = 40
    model.config.shared_expert_intermediate_size = 40
    return work.outcome
