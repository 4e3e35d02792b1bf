"""``leaks/rows-cut-as-one``"""

from dataclasses import replace

import numpy as np

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault(
    "zoo:dbrx",
    {
        "expert-isolation": r"experts\[0\] also removes channels of .*experts\[1\]",
        "coupling-minimal": r"its part in .*experts\[0\] can be removed alone",
    },
)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Experts whose rows follow one another in a matrix all lose the channels that the first one can spare."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    for leaf in ("w1", "v1", "w2"):
        for name in work.names(f"experts.mlp.{leaf}"):
            rows, experts = len(work.original.get_parameter(name)), 4
            kept = work.kept(name, 0)
            first = kept[kept < rows // experts]
            work.recut(name, {0: np.concatenate([first + rows // experts * n for n in range(experts)])})
    joint = {"experts": 0, "in_turn": frozenset[tuple[str, int]]()}
    return work.with_classes(replace(c, **joint) if c.experts else c for c in work.outcome.classes)
