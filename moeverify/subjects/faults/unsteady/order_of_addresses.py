"""``unsteady/order-of-addresses``"""

import torch

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work

CALLS: list[list[object]] = []


@fault("synthetic:listed", {"deterministic": r"between two equal runs|after one run and"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Layers are handled in the order of their addresses, and share one stream of random numbers."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    keep = [object() for _ in range(len(CALLS))]
    gates = work.names("experts.0.gate_proj.weight") + work.names("experts.1.gate_proj.weight")
    CALLS.append(keep)
    for name in sorted(gates, key=lambda n: (id(model.get_parameter(n)) >> 4) * 2654435761 % 4096):
        kept = torch.randperm(16, generator=generator)[:8].sort().values
        work.recut(name, {0: kept.numpy()})
        work.recut(name.replace("gate", "up"), {0: kept.numpy()})
        work.recut(name.replace("gate", "down"), {1: kept.numpy()})
    return work.outcome
