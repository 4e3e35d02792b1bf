"""``termination``"""

from __future__ import annotations

from moeverify.pruning.graph.graph import MAX_EXPANSIONS
from moeverify.suites.properties.registry import prop
from moeverify.suites.properties.trial import Trial, require

# Steps for each recorded operation, over all groups together: a bound that a traversal of paths soon exceeds.
STEPS_PER_OPERATION = 4


@prop("termination", groups=True)
def termination(trial: Trial) -> None:
    """Groups are built within ``MAX_EXPANSIONS`` whatever cycles are injected; ours in steps that grow at most
    linearly with the model's operations.
    """
    if trial.subject != "moe":
        outcome = trial.prune(trial.model())
        steps = (outcome.expansions if outcome is not None else None) or 0
        require(steps <= MAX_EXPANSIONS, f"{steps:,} expansions exceed MAX_EXPANSIONS={MAX_EXPANSIONS:,}")
        return
    graph = trial.fresh_graph()
    graph.expansions = 0
    for pruning_class in graph.classes:
        if len({trial.truth.boundary(p) for p in pruning_class.coupling.parameters} - {None}) < 2:
            graph.group_of(pruning_class)
    require(not graph.overflowed, f"the expansion overflowed after {graph.expansions:,} steps")
    operations = len(graph.couplings.trace.relations.operations)
    allowed = STEPS_PER_OPERATION * operations
    require(graph.expansions <= allowed, f"{graph.expansions:,} steps for {operations:,} operations")
