"""``causal``"""

from __future__ import annotations

import contextlib

from moeverify.base.memory import is_out_of_memory
from moeverify.certification.evidence import Evidence, NotVisible
from moeverify.certification.oracle.causality import TOLERANCE, leak
from moeverify.certification.oracle.running import check_asked, one_line
from moeverify.certification.oracle.sides import alone
from moeverify.certification.relations.registry import inconclusive, relation
from moeverify.checks.registry import Finding, failed, passed


@relation("causal")
def causal(evidence: Evidence) -> Finding:
    """A later token does not change earlier logits; routers whose groups do not divide the experts mix tokens."""
    check_asked(evidence)
    model, stream, sample = alone(evidence, evidence.pruned_folder)
    try:
        found = leak(model, evidence.options.seed, stream)
    except Exception as error:
        if is_out_of_memory(error):
            return inconclusive(f"memory ran out: {one_line(error)}")
        if _base_fails(evidence):
            return inconclusive(f"the base's forward on tokens fails as well: {one_line(error)}")
        return failed(f"its forward fails: {one_line(error)}")
    if found <= TOLERANCE:
        if sample is not None and not sample.whole:
            return inconclusive(f"causal in {sample}; --oracle full runs all", relative_change=found)
        return passed(f"changing the last token changes earlier logits by {found:.0e}", relative_change=found)
    theirs = 0.0
    with contextlib.suppress(NotVisible):
        base, stream, _ = alone(evidence, evidence.base_folder)
        theirs = leak(base, evidence.options.seed, stream)
    if theirs > TOLERANCE:
        return inconclusive(f"the base is not causal either: {theirs:.1e}", relative_change=found, base=theirs)
    return failed(f"changing the last token changes earlier logits by {found:.1e}", relative_change=found, base=theirs)


def _base_fails(evidence: Evidence) -> bool:
    """Whether the base cannot be run on tokens either: then the pruning is not to blame."""
    try:
        base, stream, _ = alone(evidence, evidence.base_folder)
        leak(base, evidence.options.seed, stream)
    except Exception:
        return True
    return False
