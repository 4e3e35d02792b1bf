"""``union``"""

from __future__ import annotations

import numpy as np

from moeverify.pruning.plan.plan import Cut
from moeverify.suites.properties.cuts import cut, random_kept, signature
from moeverify.suites.properties.registry import prop
from moeverify.suites.properties.trial import NotApplicable, Trial, differing, require, twin


@prop("union", own=True)
def union(trial: Trial) -> None:
    """All groups pruned in two steps, traced anew in between, give what the union of both steps gives at once."""
    generator = np.random.default_rng(trial.spec.seed)
    original = trial.model()
    classes = [c for c in trial.graph(original).classes if c.coupling.size > 2]
    if not classes:
        raise NotApplicable("no group has the three units that two steps need")
    first = [Cut(c, random_kept(c.coupling.size, (c.coupling.size + 1) // 2, c.experts, generator)) for c in classes]
    stepwise = twin(original)
    cut(stepwise, first)
    found = {signature(c): c for c in trial.graph(stepwise).classes}
    second, both = [], []
    for earlier in first:
        now = found.get(signature(earlier.pruning_class))
        require(now, f"{earlier.pruning_class.name} is no class any more after the first step")
        assert now is not None
        require(now.coupling.size == earlier.after, f"{now.name} has {now.coupling.size} units, not {earlier.after}")
        later = random_kept(earlier.after, earlier.after // 2, now.experts, generator)
        second.append(Cut(now, later))
        kept = np.take_along_axis(earlier.kept, later, axis=-1)
        both.append(Cut(earlier.pruning_class, kept))
    cut(stepwise, second)
    at_once = twin(original)
    cut(at_once, both)
    lines = differing(stepwise, at_once)
    require(not lines, f"in two steps {len(lines)} tensors differ from the union: {lines[:1]}")
