"""``inventory``"""

from __future__ import annotations

from moeverify.certification.evidence import Evidence
from moeverify.certification.relations.registry import more, relation
from moeverify.checks.registry import Finding, failed, passed
from moeverify.models.engines.entries import read_by


@relation("inventory")
def inventory(evidence: Evidence) -> Finding:
    """The files agree with each other: index and shards both ways, no tensor twice, no stray file, honest headers."""
    files = evidence.inventory
    facts = {
        "files": len(files.files),
        "tensors": len(files.tensors),
        "bytes": files.nbytes,
        "notes": files.notes,
        "read_by": read_by(files.config),
    }
    if files.problems:
        return failed(more(list(files.problems)), problems=list(files.problems), **facts)
    size = f"{files.nbytes / 2**30:.2f} GiB" if files.nbytes > 2**28 else f"{files.nbytes / 2**20:.1f} MiB"
    return passed(f"{len(files.tensors)} tensors, {size} in {len(files.files)} files, index and headers agree", **facts)
