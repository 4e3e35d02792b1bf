"""``expert-removal``"""

from __future__ import annotations

import numpy as np

from moeverify.suites.properties.registry import prop
from moeverify.suites.properties.removal import original, removable, renumbered, without
from moeverify.suites.properties.trial import Trial, differing, require, twin
from moeverify.verdict import Status

# What is judged of every removal, by its result alone.
CHECKS = ("masked-equivalence", "router-intact", "untouched-identical", "topology")


@prop("expert-removal", own=True, spare=True)
def expert_removal(trial: Trial) -> None:
    """Whole experts removed at random compute what the original does with them never chosen, and the order in which
    they go changes nothing.
    """
    base = original(trial)
    first, *more = removable(trial.spec, np.random.default_rng(trial.spec.seed))
    second = more[0] if more else frozenset()
    pruned = without(trial, twin(base), first | second)
    for check in CHECKS:
        finding = trial.finding(check, base, pruned)
        bad = finding.status not in (Status.PASS, Status.SKIP, Status.INCONCLUSIVE)
        require(not bad, f"without the experts {sorted(first | second)}: {check}: {finding.message}")
    for one, other in ((first, second), (second, first)) if second else ():
        apart = without(trial, without(trial, twin(base), one), renumbered(other, one))
        lines = differing(apart, pruned)
        require(
            not lines,
            f"{sorted(one)} removed before {sorted(other)}: {len(lines)} tensors differ from both at once: {lines[:1]}",
        )
