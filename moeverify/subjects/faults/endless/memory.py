"""``endless/memory``"""

import time

import torch

from moeverify.subjects.faults.registry import fault


@fault("synthetic:listed", {"terminates": r"used \d+\.\d GiB of memory in stage prune"}, gibibytes=2.0)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Index lists that take more and more memory."""
    kept = []
    while len(kept) < 64:
        kept.append(torch.ones(1 << 26))
        time.sleep(0.05)
