"""``serving/experts-not-renumbered``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_folders import keep_experts, numbers_of_experts


@fault(
    "zoo:mixtral",
    {"served": r"refuses the pruned model: KeyError: experts\.3 of .* is out of range: there are 2 experts"},
    engines=("stand-in",),
    load=("moeverify.serving.stand_in",),
)
def prune(base_folder, out_folder, *, pruning_ratio, seed):
    """Experts keep the numbers that they had in the base, and transformers takes them in that order."""
    keep_experts(base_folder, out_folder, numbers_of_experts(base_folder)[1::2], renumber=False)
