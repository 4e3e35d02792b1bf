"""``inventory``"""

from __future__ import annotations

from moeverify.certification.evidence import Evidence
from moeverify.certification.relations.registry import more, relation
from moeverify.checks.registry import Finding, failed, passed
from moeverify.models.engines.entries import read_by


@relation("inventory")
def inventory(evidence: Evidence) -> Finding:
    """The files agree with each other: index and shards both ways, no tensor twice, no stray file, honest headers."""
    found = evidence.inventory
    facts = {
        "files": len(found.files),
        "tensors": len(found.tensors),
        "bytes": found.nbytes,
        "notes": found.notes,
        "read_by": read_by(found.config),
    }
    if found.problems:
        return failed(more(list(found.problems)), problems=list(found.problems), **facts)
    size = f"{found.nbytes / 2**30:.2f} GiB" if found.nbytes > 2**28 else f"{found.nbytes / 2**20:.1f} MiB"
    return passed(f"{len(found.tensors)} tensors, {size} in {len(found.files)} files, index and headers agree", **facts)
