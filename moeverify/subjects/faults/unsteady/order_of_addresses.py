"""``unsteady/order-of-addresses``"""

import torch

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work

# The order of the last call, and parameters that stay alive so that later ones get other addresses.
LAST: list[str] = []
ALIVE: list[torch.Tensor] = []


@fault("synthetic:listed", {"deterministic": r"between two equal runs|after one run and"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Layers are handled in the order of their addresses, and share one stream of random numbers."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    gates = work.names("experts.0.gate_proj.weight") + work.names("experts.1.gate_proj.weight")
    order = sorted(gates, key=lambda name: _address(model, name))
    while order == LAST:  # addresses that fall as they did before are luck, which a test of the checks cannot rest on
        for name in gates:
            ALIVE.append(model.get_parameter(name))
            work.put(name, ALIVE[-1].detach())
        order = sorted(gates, key=lambda name: _address(model, name))
    LAST[:] = order
    for name in order:
        kept = torch.randperm(16, generator=generator)[:8].sort().values
        work.recut(name, {0: kept.numpy()})
        work.recut(name.replace("gate", "up"), {0: kept.numpy()})
        work.recut(name.replace("gate", "down"), {1: kept.numpy()})
    return work.outcome


def _address(model: torch.nn.Module, name: str) -> int:
    """The place of a parameter in memory, scattered as a hash table does."""
    return (id(model.get_parameter(name)) >> 4) * 2654435761 % 4096
