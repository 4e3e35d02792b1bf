"""``kept-experts-permuted``"""

from __future__ import annotations

import numpy as np
import torch

from moeverify.checks.evidence.agreement import agreement
from moeverify.models.outputs import float_outputs
from moeverify.suites.properties.registry import prop
from moeverify.suites.properties.removal import original, permuted, put, removable, without
from moeverify.suites.properties.trial import NotApplicable, Trial, require, twin
from moeverify.verdict import Status

_CHECKS = ("masked-equivalence", "router-intact")
_TOLERANCE = 1e-9


@prop("kept-experts-permuted", own=True, spare=True)
def kept_experts_permuted(trial: Trial) -> None:
    """A pruned model stays right if its kept experts, and all tensors that count them, are permuted alike. It gives the
    same outputs and passes the same checks.
    """
    spec = trial.spec
    base = original(trial)
    gone, *_ = removable(spec, np.random.default_rng(spec.seed))
    pruned = without(trial, twin(base), gone)
    order = another_order(spec.experts - len(gone), spec.groups if spec.router == "group_limited" else 1)
    moved = put(twin(pruned), permuted(pruned, spec, order))
    with torch.no_grad():
        expected, got = (float_outputs(model(**_as_double(trial.inputs))) for model in (pruned, moved))
    found = agreement(got, expected, expected)
    require(not found.wrong, f"kept experts in the order {order}: {found.wrong}")
    require(found.error <= _TOLERANCE, f"kept experts in the order {order} change {found.worst} by {found.error:.1e}")
    if spec.storage == "listed" and len(set(spec.widths)) > 1 and spec.zero_experts:
        raise NotApplicable("its configuration gives each expert a width of its own")
    for check in _CHECKS:
        before, after = (trial.finding(check, base, model) for model in (pruned, moved))
        bad = after.status not in (Status.PASS, Status.SKIP, Status.INCONCLUSIVE)
        require(
            not bad or before.status is after.status, f"kept experts in the order {order}: {check}: {after.message}"
        )


def another_order(count: int, groups: int) -> list[int]:
    """Groups in reverse, and the experts of each group in reverse.

    >>> another_order(6, 2)
    [5, 4, 3, 2, 1, 0]
    """
    each = count // groups
    return [group * each + expert for group in reversed(range(groups)) for expert in reversed(range(each))]


def _as_double(inputs):
    return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
