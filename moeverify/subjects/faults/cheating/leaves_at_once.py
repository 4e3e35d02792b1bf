"""``cheating/leaves-at-once``"""

import os

from moeverify.subjects.faults.registry import fault


@fault("zoo:mixtral", {"terminates": r"left by os\._exit\(0\)"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The pruner ends the process with status 0, past every handler."""
    os._exit(0)
