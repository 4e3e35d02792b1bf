"""A module without a ``__main__`` guard: it ends the process that imports it."""

import sys


def prune(model, example_inputs, *, pruning_ratio, seed):
    """Never reached."""


sys.exit(0)
