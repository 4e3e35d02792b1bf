"""``router-intact``"""

from __future__ import annotations

from moeverify.certification.evidence import Evidence
from moeverify.certification.matching.compare import PURE, Relation
from moeverify.certification.relations.registry import inconclusive, more, relation
from moeverify.certification.relations.values import classes_of, line, outputs_are_right, show
from moeverify.checks.registry import Finding, failed, passed, skipped


@relation("router-intact")
def router_intact(evidence: Evidence) -> Finding:
    """Router rows, biases, scales and id tables are the base's, in the order in which the experts themselves stand."""
    classes = classes_of(evidence)
    faults = [item for item in classes.faults if item.role == "router"]
    if faults:
        return failed(more(list(map(line, faults))), differences=show(faults))
    items = [item for item in evidence.compared if item.role == "router"]
    if not items:
        return skipped("the model has no router")
    odd = [item for item in items if item.relation is not Relation.MOVED or item in classes.reported]
    odd = [item for item in odd if item.relation not in (*PURE, Relation.ROUNDED)]
    if odd and not (all(item.relation is Relation.SCALED for item in odd) and outputs_are_right(evidence)):
        return inconclusive(f"{odd[0].where}: {odd[0].detail or odd[0].relation.value}", differences=show(odd))
    return passed(f"{len(items)} tensors that count experts follow the experts")
