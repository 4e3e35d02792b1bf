"""``cheating/interrupts``"""

from moeverify.subjects.faults.registry import fault


@fault("zoo:mixtral", {"terminates": r"left by KeyboardInterrupt"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The pruner raises what a user's Ctrl-C raises."""
    raise KeyboardInterrupt
