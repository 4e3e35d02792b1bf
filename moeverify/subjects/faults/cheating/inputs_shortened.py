"""``cheating/inputs-shortened``"""

from moeverify.subjects.faults.heads.queries_of_another_group import prune as queries_of_another_group
from moeverify.subjects.faults.registry import fault


@fault("zoo:qwen2_moe", {"masked-equivalence": r"differs from the masked original"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The example inputs are cut to one token, which no attention error shows on."""
    example_inputs["input_ids"] = example_inputs["input_ids"][:, :1]
    return queries_of_another_group(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
