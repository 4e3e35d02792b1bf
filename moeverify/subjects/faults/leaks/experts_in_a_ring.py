"""``leaks/experts-in-a-ring``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("synthetic:listed", {"masked-equivalence": r"differs from the masked original"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Each listed expert's gate is cut at the channels that its neighbour keeps."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    gates = [n for n in work.names("gate_proj.weight") if ".layers.1." in n and ".experts." in n]
    for name, neighbour in zip(gates, gates[1:] + gates[:1], strict=True):
        work.recut(name, {0: work.kept(neighbour, 0)})
    return work.outcome
