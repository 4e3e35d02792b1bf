"""``causal``"""

from __future__ import annotations

from moeverify.certification.evidence import Evidence, NotVisible
from moeverify.certification.oracle.causality import TOLERANCE, leak
from moeverify.certification.oracle.running import check_size, load_model, one_line
from moeverify.certification.relations.registry import inconclusive, relation
from moeverify.checks.registry import Finding, failed, passed


@relation("causal")
def causal(evidence: Evidence) -> Finding:
    """A later token does not change earlier logits; routers whose groups do not divide the experts mix tokens."""
    check_size(evidence)
    model = load_model(evidence.pruned_folder, evidence.options.device)
    try:
        found = leak(model, evidence.options.seed)
    except Exception as error:
        return failed(f"its forward fails: {one_line(error)}")
    if found <= TOLERANCE:
        return passed(f"changing the last token changes earlier logits by {found:.0e}", relative_change=found)
    try:
        theirs = leak(load_model(evidence.base_folder, evidence.options.device), evidence.options.seed)
    except NotVisible:
        theirs = 0.0
    if theirs > TOLERANCE:
        return inconclusive(f"the base is not causal either: {theirs:.1e}", relative_change=found, base=theirs)
    return failed(f"changing the last token changes earlier logits by {found:.1e}", relative_change=found, base=theirs)
