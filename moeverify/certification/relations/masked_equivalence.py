"""``masked-equivalence``"""

from __future__ import annotations

from moeverify.certification.classify import Headline
from moeverify.certification.evidence import Evidence
from moeverify.certification.matching.compare import Relation
from moeverify.certification.oracle.running import check_asked, one_line
from moeverify.certification.relations.registry import inconclusive, relation
from moeverify.certification.relations.values import classes_of, proof_of
from moeverify.checks.registry import Finding, failed, passed, skipped

_NO_REFERENCE = (Headline.MERGED, Headline.COPIES, Headline.RETRAINED, Headline.UNDERIVED, Headline.PARTLY)


@relation("masked-equivalence")
def masked_equivalence(evidence: Evidence) -> Finding:
    """The pruned model computes what the base computes with the removed parts masked, on the same tokens.

    In float64, relative error of every output below 1e-9, every expert that stayed reached. Where values were cast or
    rounded, those of the base are rounded alike.
    """
    check_asked(evidence)
    classes = classes_of(evidence)
    if classes.headline in _NO_REFERENCE:
        return skipped(f"{classes.headline.value}: there is no reference to compare with")
    relations = {item.relation for item in evidence.compared}
    if Relation.ZEROED in relations:
        return inconclusive("parts were set to zero, so that the base without them is the folder itself")
    if any(item.relation is Relation.UNMAPPED for item in evidence.compared):
        return inconclusive("some values could not be placed in the base, so that there is no reference")
    if Relation.SCALED in relations and evidence.base.naming.tensors and _coarse(evidence):
        return inconclusive("rescaled weights were rounded to 16 bits: outputs differ by that")
    try:
        proof = proof_of(evidence)
    except Exception as error:
        return inconclusive(f"the models could not be compared: {one_line(error)}")
    facts = vars(proof)
    if not proof.inputs:
        return inconclusive("every input drawn has a near-tie in the choice of experts", **facts)
    if proof.near_ties > proof.inputs:
        return inconclusive(f"most inputs ({proof.near_ties}) differ where the base's choice is a near-tie", **facts)
    if proof.unseen:
        return inconclusive(f"the router of {proof.unseen[0]} could not be told which experts are gone", **facts)
    if proof.error >= proof.tolerance:
        differs = f"{proof.output} differs from the masked base by {proof.error:.1e}"
        if proof.wrong:
            differs = f"differs from the masked base: {proof.wrong}"
        if classes.faults or evidence.pruned.naming.missing:
            return failed(differs, **facts)
        return failed(
            f"{differs} although every value is the base's: the configuration or the order of parts is wrong", **facts
        )
    if proof.sample:
        return inconclusive(f"equal to {proof.error:.1e} in {proof.sample}; --oracle full runs all", **facts)
    if proof.unreached:
        return inconclusive(f"equal, but no token reached {proof.unreached[0]}", **facts)
    if not proof.effect:
        return passed("computes what the base computes; nothing that was removed has an effect", **facts)
    return passed(f"equals the masked base to {proof.error:.1e}; the mask changes it by {proof.effect:.1e}", **facts)


def _coarse(evidence: Evidence) -> bool:
    """Whether any rescaled weight is stored in fewer than 32 bits."""
    scaled = (item.name for item in evidence.compared if item.relation is Relation.SCALED)
    return any(evidence.pruned.naming.tensors[name].dtype.itemsize < 4 for name in scaled)
