"""``untouched``"""

from __future__ import annotations

from moeverify.certification.classify import Classes
from moeverify.certification.evidence import Evidence
from moeverify.certification.matching.compare import PURE, Compared, Relation
from moeverify.certification.relations.registry import inconclusive, more, relation
from moeverify.certification.relations.values import classes_of, line, outputs_are_right, show
from moeverify.certification.relations.vocabulary import judge_tokens, token_faults
from moeverify.checks.registry import Finding, failed


@relation("untouched")
def untouched(evidence: Evidence) -> Finding:
    """Shared experts, attention, norms and embeddings are the base's at the positions that stayed."""
    classes = classes_of(evidence)
    faults = [i for i in classes.faults if i.role == "other" and i.relation is not Relation.MOVED]
    lines = [*map(line, faults), *token_faults(evidence)]
    if lines:
        return failed(more(lines), differences=show(faults))
    items = [item for item in evidence.compared if item.role == "other"]
    odd = [item for item in items if item.relation is not Relation.MOVED or item in classes.reported]
    odd = [item for item in odd if item.relation not in (*PURE, Relation.ROUNDED, Relation.ZEROED)]
    if odd and not (all(_undone_elsewhere(classes, item) for item in odd) and outputs_are_right(evidence)):
        return inconclusive(f"{odd[0].where}: {odd[0].detail or odd[0].relation.value}", differences=show(odd))
    text = f"{len(items)} tensors outside of experts and routers are the base's"
    return judge_tokens(evidence, text)


def _undone_elsewhere(classes: Classes, item: Compared) -> bool:
    """Whether another tensor can undo a difference, so that right outputs excuse it: a scale, or another order."""
    return item.relation is Relation.SCALED or item in classes.reordered
