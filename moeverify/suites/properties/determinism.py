"""``determinism``"""

import torch

from moeverify.suites.properties.registry import prop
from moeverify.suites.properties.trial import Trial, differing, require


@prop("determinism")
def determinism(trial: Trial) -> None:
    """The same model and the same seed give the same result bit for bit, whatever the process drew before."""
    first, second = trial.model(), trial.model()
    trial.prune(first)
    torch.rand(7)
    trial.prune(second)
    lines = differing(first, second)
    require(not lines, f"pruned twice with one seed, {len(lines)} tensors differ: {lines[:1]}")
