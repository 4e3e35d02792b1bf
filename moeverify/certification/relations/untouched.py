"""``untouched``"""

from __future__ import annotations

import numpy as np

from moeverify.certification.classify import Classes
from moeverify.certification.evidence import Evidence
from moeverify.certification.matching.compare import PURE, Compared, Relation
from moeverify.certification.relations.registry import inconclusive, more, relation
from moeverify.certification.relations.values import classes_of, line, outputs_are_right, show
from moeverify.checks.registry import Finding, failed, passed


@relation("untouched")
def untouched(evidence: Evidence) -> Finding:
    """Shared experts, attention, norms and embeddings are the base's at the positions that stayed."""
    classes = classes_of(evidence)
    faults = [i for i in classes.faults if i.role == "other" and i.relation is not Relation.MOVED]
    if faults:
        return failed(more(list(map(line, faults))), differences=show(faults))
    items = [item for item in evidence.compared if item.role == "other"]
    odd = [item for item in items if item.relation is not Relation.MOVED or item in classes.reported]
    odd = [item for item in odd if item.relation not in (*PURE, Relation.ROUNDED, Relation.ZEROED)]
    if odd and not (all(_undone_elsewhere(classes, item) for item in odd) and outputs_are_right(evidence)):
        return inconclusive(f"{odd[0].where}: {odd[0].detail or odd[0].relation.value}", differences=show(odd))
    text = f"{len(items)} tensors outside of experts and routers are the base's"
    if (tokens := evidence.keep.tokens) is None:
        return passed(text)
    size = next(evidence.keep.base[name][dim] for name, dim in evidence.keep.token_axes)
    if (tokens < 0).any():
        return inconclusive(
            f"{int((tokens < 0).sum())} tokens were added, whose scores compete with the others': whether a generation "
            "leaves them out cannot be seen",
            tokens=len(tokens),
        )
    if not np.array_equal(tokens, np.arange(len(tokens))):
        first = int(np.flatnonzero(tokens != np.arange(len(tokens)))[0])
        return inconclusive(
            f"{len(tokens)} of {size} tokens stayed under other numbers (token {first} is the base's {tokens[first]}): "
            "whether the tokenizer follows cannot be seen",
            tokens=len(tokens),
        )
    return passed(f"{text}; of the vocabulary the first {len(tokens)} of {size} tokens stayed")


def _undone_elsewhere(classes: Classes, item: Compared) -> bool:
    """Whether another tensor can undo a difference, so that right outputs excuse it: a scale, or another order."""
    return item.relation is Relation.SCALED or item in classes.reordered
