"""Names of the base under the numbers that they have in the pruned folder: what the base lacks as well is no fault."""

from __future__ import annotations

from collections.abc import Iterable

from moeverify.certification.evidence import Evidence
from moeverify.certification.matching.lists import lengths
from moeverify.certification.matching.maps import KeepMap
from moeverify.errors import MoEVerifyError
from moeverify.models.module_lists import ListCut, renamed


def in_pruned(evidence: Evidence, names: Iterable[str]) -> set[str]:
    """Names of base tensors, each as it stands and as it is called behind the layers that stayed."""
    names = set(names)
    return names | {new for name in names if (new := renamed(name, list_cuts(evidence))) is not None}


def list_cuts(evidence: Evidence) -> list[ListCut]:
    """The lists that lost entries, ascending ones only; none where the keep map is not known."""
    try:
        keep: KeepMap = evidence.keep
    except MoEVerifyError:
        return []
    before = lengths(keep.base)
    ascending = {path: n for path, n in keep.lists.items() if (n >= 0).all() and (n[1:] > n[:-1]).all()}
    return [ListCut.of_numbers(path, before[path], numbers) for path, numbers in ascending.items() if path in before]
