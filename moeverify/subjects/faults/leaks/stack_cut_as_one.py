"""``leaks/stack-cut-as-one``"""

from dataclasses import replace

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("zoo:qwen3_moe", {"expert-isolation": r"experts\[0\] also removes channels of .*experts\[1\]"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """All experts of a stack lose the channels that the first one can spare."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    down = work.name("mlp.experts.down_proj")
    gate_up = down.replace("down_proj", "gate_up_proj")
    for expert in range(len(work.model.get_parameter(down))):
        work.recut(down, {2: work.kept(down, 2, 0)}, expert)
        work.recut(gate_up, {1: work.kept(gate_up, 1, 0)}, expert)
    return work.with_classes(replace(c, experts=0) if c.role == "routed_experts" else c for c in work.outcome.classes)
