"""``experts-and-channels``"""

from __future__ import annotations

import numpy as np

from moeverify.coupling.classify import ROLES
from moeverify.suites.properties.registry import prop
from moeverify.suites.properties.removal import original, removable, without
from moeverify.suites.properties.trial import NotApplicable, Trial, differing, require, twin

# Channels of other roles are ranked by weights of all experts, so who is removed decides on them, too.
_CHANNELS = {role: 0.5 if role == "routed_experts" else 0.0 for role in ROLES}


@prop("experts-and-channels", own=True, spare=True)
def experts_and_channels(trial: Trial) -> None:
    """Whole experts removed before their channels, after them or in one step with them leave the same weights."""
    base = original(trial)
    if trial.spec.strength("ring") or trial.spec.strength("shared_layers"):
        raise NotApplicable("a channel's rank may depend on modules that are called several times")
    gone, *_ = removable(trial.spec, np.random.default_rng(trial.spec.seed))
    both = without(trial, twin(base), gone, ratios=_CHANNELS, round_to=None)
    before = _narrowed(trial, without(trial, twin(base), gone))
    after = without(trial, _narrowed(trial, twin(base)), gone)
    for name, model in (("before", before), ("after", after)):
        lines = differing(model, both)
        require(
            not lines,
            f"experts {sorted(gone)} removed {name} their channels: {len(lines)} tensors differ from one step for "
            f"both: {lines[:1]}",
        )


def _narrowed(trial, model):
    """``model`` with half of the channels in each routed expert."""
    return without(trial, model, (), ratios={**_CHANNELS, "experts": 0.0}, round_to=None)
