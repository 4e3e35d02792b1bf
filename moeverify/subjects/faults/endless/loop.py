"""``endless/loop``"""

from moeverify.subjects.faults.registry import fault


@fault("synthetic:listed", {"terminates": r"did not finish within .* in prune \(endless/loop\.py"}, seconds=20.0)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """A loop whose end never comes."""
    while model is not None:
        pass
