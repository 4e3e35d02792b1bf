"""``cheating/claims-adjustments``"""

from dataclasses import replace

from moeverify.pruning.plan.plan import Adjustment, Reason
from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault("zoo:mixtral", {"ratio-honoured": r"the plan claims that no entry gives what was asked, but \w+ = \d+ does"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """A fraction of what was asked for goes, and the plan claims that the configuration wants the rest."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio / 4, seed=seed)
    kept = {cut.pruning_class: cut.after for cut in outcome.plan.cuts}
    reason = Reason("the configuration cannot say it")
    claims = tuple(Adjustment(c, c.coupling.size // 2, kept.get(c, c.coupling.size), reason) for c in outcome.classes)
    return replace(outcome, plan=replace(outcome.plan, adjustments=claims))
