"""``kinds/another-dtype``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault(
    "zoo:qwen2_moe",
    {"untouched-identical": r"mlp\.gate\.weight: dtype was torch\.bfloat16, is torch\.float32"},
    dtype="bfloat16",
)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """A bfloat16 model's router comes back in float32."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    name = work.name("mlp.gate.weight")
    work.put(name, model.get_parameter(name).detach().float())
    return work.outcome
