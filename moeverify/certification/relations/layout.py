"""``layout``"""

from __future__ import annotations

from moeverify.certification.evidence import Evidence, is_quantised
from moeverify.certification.relations.registry import inconclusive, more, relation
from moeverify.certification.relations.same_in_base import in_pruned
from moeverify.checks.registry import Finding, failed, passed


@relation("layout")
def layout(evidence: Evidence) -> Finding:
    """Every tensor has a place in the model that the configuration describes, and every place has a tensor.

    What the base lacks as well is no fault of the pruning.
    """
    naming = evidence.pruned.naming
    if is_quantised(evidence.inventory.config):
        return inconclusive("the folder is quantised: which tensors its kernels need is left to loads-whole")
    theirs = evidence.base.naming
    lines = [f"{name} is missing: it would be random after loading" for name in naming.missing]
    lacking = in_pruned(evidence, theirs.missing) if lines else set()
    lines = [line for line in lines if line.split(" ")[0] not in lacking]
    left_over = in_pruned(evidence, (*theirs.unexpected, *theirs.ignored)) if naming.unexpected else set()
    lines += [f"{name} has no place in the model" for name in naming.unexpected if name not in left_over]
    lines += [f"{name} {line}" for name, line in naming.broken.items() if "put together" in line]
    lines += naming.misnumbered
    facts = {"missing": naming.missing, "unexpected": naming.unexpected, "left_out": naming.ignored}
    if lines:
        return failed(more(lines), problems=lines, **facts)
    note = f"; {len(naming.ignored)} tensors are left out by the architecture" if naming.ignored else ""
    return passed(f"every tensor of the model is there, none is left over{note}", **facts)
