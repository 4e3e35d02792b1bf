"""``cheating/leaves-quietly``"""

import sys

from moeverify.subjects.faults.registry import fault


@fault("zoo:mixtral", {"terminates": r"left by SystemExit\(0\)"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The pruner leaves by an exit that says all is well."""
    sys.exit(0)
