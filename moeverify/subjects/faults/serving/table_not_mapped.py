"""``serving/table-not-mapped``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_folders import edit, keep_experts, numbers_of_experts

SPECIAL = 8  # ids of tokens that texts seldom have


@fault(
    "zoo:deepseek_v4",
    {"served": r"refuses the pruned model: IndexError: expert id 3 of .*tid2eid is out of range: there are 2 experts"},
    engines=("stand-in",),
    load=("moeverify.serving.stand_in",),
)
def prune(base_folder, out_folder, *, pruning_ratio, seed):
    """A table of expert ids keeps the base's numbers for special tokens, which no prompt of words shows."""
    numbers = numbers_of_experts(base_folder)
    keep_experts(base_folder, out_folder, kept := numbers[: len(numbers) // 2])

    def map_most(tensors):
        for name, table in tensors.items():
            if name.endswith("tid2eid"):
                table[SPECIAL:] = (table[SPECIAL:, :1] + range_like(table[SPECIAL:])) % len(kept)

    edit(out_folder, map_most)


def range_like(table):
    """The numbers 0, 1, ... in each row, so that a token's experts differ."""
    return (table.new_ones(table.shape).cumsum(-1) - 1).to(table.dtype)
