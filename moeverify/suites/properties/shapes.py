"""``shapes``"""

from moeverify.suites.properties.registry import prop
from moeverify.suites.properties.trial import Trial, require, twin

STEPS = 3


@prop("shapes")
def shapes(trial: Trial) -> None:
    """After one or several steps of pruning the model runs and its output has the original shape. Every layer's
    attributes state its actual sizes.
    """
    original = trial.model()
    pruned = twin(original)
    sizes = sum(p.numel() for p in original.parameters())
    for step in range(STEPS):
        if trial.prune(pruned, again=step > 0) is None:
            break
        left = sum(p.numel() for p in pruned.parameters())
        require(left < sizes, f"step {step + 1} removed nothing")
        sizes = left
        finding = trial.finding("shapes", original, pruned.eval())
        require(finding.status.value == "pass", f"after step {step + 1}: {finding.message}")
