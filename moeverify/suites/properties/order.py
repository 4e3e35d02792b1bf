"""``order``"""

from __future__ import annotations

import numpy as np

from moeverify.pruning.plan.plan import Cut
from moeverify.suites.properties.cuts import cut, random_kept, signature
from moeverify.suites.properties.registry import prop
from moeverify.suites.properties.trial import NotApplicable, Trial, differing, require, twin


@prop("order", own=True)
def order(trial: Trial) -> None:
    """Two independent groups pruned one after the other, traced anew in between, give in either order what both at
    once give.
    """
    generator = np.random.default_rng(trial.spec.seed)
    original = trial.model()
    classes = [c for c in trial.graph(original).classes if c.coupling.size > 1]
    if len(classes) < 2:
        raise NotApplicable("there are no two groups to prune")
    chosen = [classes[n] for n in generator.permutation(len(classes))[:2]]
    cuts = [Cut(c, random_kept(c.coupling.size, c.coupling.size // 2, c.experts, generator)) for c in chosen]
    together = twin(original)
    cut(together, cuts)
    for first, second in (cuts, reversed(cuts)):
        model = twin(original)
        cut(model, [first])
        wanted = signature(second.pruning_class)
        again = next((c for c in trial.graph(model).classes if signature(c) == wanted), None)
        if again is None or again.coupling.size != second.before:
            require(
                _has_one_unit(first, second),
                f"{second.pruning_class.name} is not what it was after {first.pruning_class.name} was pruned",
            )
            continue
        cut(model, [Cut(again, second.kept)])
        lines = differing(model, together)
        names = f"{first.pruning_class.name}, then {second.pruning_class.name}"
        require(not lines, f"{names}: {len(lines)} tensors differ from both at once: {lines[:1]}")


def _has_one_unit(first: Cut, second: Cut) -> bool:
    """Whether a class may change its form: once one unit is left, the other factor of a product becomes prunable."""
    return first.after == 1
