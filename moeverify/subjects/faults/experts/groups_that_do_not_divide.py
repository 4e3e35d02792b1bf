"""``experts/groups-that-do-not-divide``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_experts import Removal


@fault(
    "zoo:deepseek_v3",
    {
        "causal": r"tokens are mixed, which the original does not do",
        "topology": r"5 experts do not make 2 equal groups",
    },
)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Five experts stay in two groups: a view takes scores of one token for those of another."""
    work = Removal(model, example_inputs, seed=seed)
    for cut in work.cuts:
        kept = sorted([*cut.kept.tolist(), cut.removed[0]])
        for name in work.original.state_dict():
            inside = name.startswith(f"{cut.layer}.") and "shared" not in name
            if inside and len(work.original.state_dict()[name]) == cut.before:
                work.put(name, work.original.state_dict()[name][kept])
    work.set_entries(num_experts=len(kept), n_routed_experts=len(kept))
    return work.outcome
