"""``causal``"""

from __future__ import annotations

import contextlib

from moeverify.base.memory import is_out_of_memory
from moeverify.certification.evidence import Evidence, NotVisible
from moeverify.certification.oracle.causality import TOLERANCE, leaks
from moeverify.certification.oracle.running import check_asked, one_line
from moeverify.certification.oracle.sides import alone
from moeverify.certification.relations.registry import inconclusive, relation
from moeverify.checks.registry import Finding, failed, passed


@relation("causal")
def causal(evidence: Evidence) -> Finding:
    """A later token changes no earlier row of any output; routers whose groups do not divide the experts mix tokens.

    Outputs for which the base reads later tokens itself are left out.
    """
    check_asked(evidence)
    model, stream, sample = alone(evidence, evidence.pruned_folder)
    try:
        changes = leaks(model, evidence.options.seed, stream)
    except Exception as error:
        if is_out_of_memory(error):
            return inconclusive(f"memory ran out: {one_line(error)}")
        if _base_fails(evidence):
            return inconclusive(f"the base's forward on tokens fails as well: {one_line(error)}")
        return failed(f"its forward fails: {one_line(error)}")
    if not changes:
        return inconclusive("no output has a row for each token")
    theirs: dict[str, float] = {}
    if max(changes.values()) > TOLERANCE:
        with contextlib.suppress(NotVisible):
            base, stream, _ = alone(evidence, evidence.base_folder)
            theirs = leaks(base, evidence.options.seed, stream)
    facts = {"relative_change": changes, "base": theirs}
    judged = {name: moved for name, moved in changes.items() if theirs.get(name, 0.0) <= TOLERANCE}
    if not judged:
        return inconclusive(f"the base is not causal either: earlier {_most(theirs)}", **facts)
    text = f"changing the last token changes earlier {_most(judged)}"
    if max(judged.values()) > TOLERANCE:
        return failed(text, **facts)
    if sample is not None and not sample.whole:
        return inconclusive(f"causal in {sample}; --oracle full runs all", **facts)
    return passed(text, **facts)


def _most(moved: dict[str, float]) -> str:
    """The output that moves most, and how far."""
    name = max(moved, key=lambda name: moved[name])
    return f"{name} by {moved[name]:.1e}"


def _base_fails(evidence: Evidence) -> bool:
    """Whether the base cannot be run on tokens either: then the pruning is not to blame."""
    try:
        base, stream, _ = alone(evidence, evidence.base_folder)
        leaks(base, evidence.options.seed, stream)
    except Exception:
        return True
    return False
