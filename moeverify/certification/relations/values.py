"""Common parts of the relations on values: faults of one role, and the words for them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from moeverify.certification.classify import Classes, classify
from moeverify.certification.evidence import Evidence
from moeverify.certification.matching.compare import PURE, Compared, Relation
from moeverify.certification.matching.inner import reordered_inside
from moeverify.certification.matching.mixtures import find_mixtures
from moeverify.certification.oracle.proof import TOLERANCE, Proof, prove
from moeverify.certification.oracle.running import check_asked

# Rescaled weights are rounded once to the 24 bits of float32.
RESCALED_TOLERANCE = 1e-5


@lru_cache(maxsize=4)
def classes_of(evidence: Evidence) -> Classes:
    """The class of the folder and its faults. Raises ``NotVisible`` if values cannot be compared."""
    compared = evidence.compared
    mixtures = find_mixtures(evidence.base, evidence.pruned, evidence.keep, compared)
    rescaled = any(item.relation is Relation.SCALED for item in compared)
    proved = outputs_are_right(evidence) if rescaled or reordered_inside(compared, evidence.keep) else None
    return classify(compared, evidence.keep, mixtures, proved=proved)


@lru_cache(maxsize=4)
def proof_of(evidence: Evidence) -> Proof:
    """The numeric proof. Raises ``NotVisible`` if the models are not to be run."""
    check_asked(evidence)
    rescaled = any(item.relation is Relation.SCALED for item in evidence.compared)
    return prove(evidence, RESCALED_TOLERANCE if rescaled else TOLERANCE)


def outputs_are_right(evidence: Evidence) -> bool | None:
    """Whether the outputs are those of the masked base: rescaled weights then make up for a constant.

    ``None`` if nothing was compared, or some layers were not.
    """
    try:
        proof = proof_of(evidence)
    except Exception:
        return None
    if not proof.inputs or proof.unseen:
        return None
    right = proof.error < proof.tolerance
    return None if right and (proof.sample or proof.unreached) else right  # what did not run may be wrong


def line(item: Compared) -> str:
    """One difference in words."""
    relation = {
        Relation.ROUNDED: "was rounded although its siblings were not",
        Relation.SCALED: "was rescaled although its siblings were not",
        Relation.ZEROED: "lost values to zero",
        Relation.CHANGED: "was altered",
        Relation.UNRELATED: "holds other values than the base",
        Relation.MOVED: "is out of step",
        Relation.UNMAPPED: "cannot be placed",
    }.get(item.relation, item.relation.value)
    source = f" (base expert {item.base_expert})" if item.base_expert is not None and item.base_expert >= 0 else ""
    return f"{item.where}{source} {relation}: {item.detail}"


def show(items: Iterable[Compared], limit: int = 40) -> list[dict[str, Any]]:
    """Differences as evidence."""
    return [
        {
            "tensor": item.name,
            "on_disk": item.origin,
            "base_tensor": item.base_name,
            "expert": item.expert,
            "base_expert": item.base_expert,
            "relation": item.relation.value,
            "detail": item.detail,
            "relative_change": item.change,
        }
        for item in list(items)[:limit]
    ]


def share_of_bytes(items: Iterable[Compared]) -> float:
    """Share of the bytes that are the base's, bit for bit or cast."""
    items = list(items)
    total = sum(item.nbytes for item in items)
    return sum(item.nbytes for item in items if item.relation in PURE) / max(total, 1)
