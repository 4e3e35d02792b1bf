"""``cheating/kills-itself``"""

import os
import signal

from moeverify.subjects.faults.registry import fault


@fault("zoo:mixtral", {"terminates": r"SIGKILL"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The pruner's process is killed before it hands anything over."""
    os.kill(os.getpid(), signal.SIGKILL)
