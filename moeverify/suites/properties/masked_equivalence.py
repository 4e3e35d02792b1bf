"""``masked-equivalence``"""

from moeverify.suites.properties.registry import prop
from moeverify.suites.properties.trial import NotApplicable, Trial, require, twin
from moeverify.verdict import Status


@prop("masked-equivalence")
def masked_equivalence(trial: Trial) -> None:
    """The pruned model computes what the original computes with the removed channels held at zero (the check of the
    same name, in float64).

    A spec whose tokens do not reach every expert, or whose removed channels do not matter, proves less: it fails only
    where the outputs differ.
    """
    original = trial.model()
    pruned = twin(original)
    trial.prune(pruned)
    finding = trial.finding("masked-equivalence", original, pruned.eval())
    evidence = finding.evidence
    if finding.status in (Status.INCONCLUSIVE, Status.SKIP):
        raise NotApplicable(finding.message)
    if finding.status is not Status.PASS and evidence.get("relative_error", 1.0) < evidence.get("tolerance", 0.0):
        raise NotApplicable(finding.message)
    require(finding.status is Status.PASS, finding.message)
