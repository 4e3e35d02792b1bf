"""``serving/groups-that-do-not-divide``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_folders import keep_experts, numbers_of_experts


@fault(
    "zoo:deepseek_v3",
    {"served": r"refuses the pruned model: AssertionError: 5 experts do not divide into 2 groups"},
    engines=("stand-in",),
    load=("moeverify.serving.stand_in",),
)
def prune(base_folder, out_folder, *, pruning_ratio, seed):
    """One expert more than half stays, so groups differ in size: transformers takes tokens and experts together."""
    numbers = numbers_of_experts(base_folder)
    keep_experts(base_folder, out_folder, numbers[: len(numbers) // 2 + 1])
