"""``consistency``"""

from __future__ import annotations

from moeverify.certification.classify import is_permuted
from moeverify.certification.evidence import Evidence
from moeverify.certification.matching.compare import Relation
from moeverify.certification.relations.registry import inconclusive, more, relation
from moeverify.certification.relations.values import classes_of, line, outputs_are_right, show
from moeverify.checks.registry import Finding, failed, passed


@relation("consistency")
def consistency(evidence: Evidence) -> Finding:
    """One keep map explains every member of every coupling class: no tensor is cut at other positions than the rest."""
    classes = classes_of(evidence)
    moved = [i for i in classes.faults if i.relation is Relation.MOVED and i.role != "router"]
    if moved:
        return failed(more(list(map(line, moved))), differences=show(moved))
    lost = [item for item in evidence.compared if item.relation is Relation.UNMAPPED and "positions" in item.detail]
    if lost:
        return inconclusive(f"{lost[0].where}: {lost[0].detail}", differences=show(lost))
    if classes.reordered and not outputs_are_right(evidence):
        return inconclusive(
            f"{classes.reordered[0].where}: channels stand in another order inside of their heads; whether all tensors "
            "agree is seen by running the models: --oracle full",
            differences=show(classes.reordered),
        )
    if (loose := evidence.keep.loose) and not outputs_are_right(evidence):
        return inconclusive(
            f"{loose[0]}: no coupling class explains which positions stayed (heads cut inside of groups that share "
            "keys?); each tensor holds values of the base, whether they go together is seen by running the models: "
            "--oracle full",
            tensors=loose,
        )
    known = len(evidence.keep.units)
    order = "in another order than the base's" if is_permuted(evidence.keep) else "in the base's order"
    inside = "; inside of heads channels changed places, in all tensors alike" if classes.reordered else ""
    return passed(f"one map explains all members of {known} coupling classes, {order}{inside}", classes=known)
