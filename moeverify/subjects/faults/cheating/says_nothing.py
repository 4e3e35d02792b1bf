"""``cheating/says-nothing``"""

from moeverify.subjects.faults.registry import fault


@fault("zoo:mixtral", {"terminates": r"crashed .*no message"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The pruner fails with an exception without words."""
    raise ValueError
