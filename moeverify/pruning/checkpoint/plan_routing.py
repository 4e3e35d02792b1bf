"""Numbers of a router that a plan for whole experts may lower: top-k and groups, where the experts left ask for it."""

from __future__ import annotations

import numpy as np

from moeverify.pruning.experts.axes import TOP_K
from moeverify.pruning.experts.topology import CHOSEN_GROUPS, GROUPS
from moeverify.pruning.plan.plan import Plan

_TOP_K = (*TOP_K, "num_experts_per_token", "top_k_experts", "num_selected_experts")


def follows_experts(name: str, old: int, value: int, plan: Plan) -> bool:
    """Whether the kept experts determine ``value`` for configuration entry ``name``.

    Top-k becomes the number of experts kept, if that is smaller. The number of groups falls if whole groups were
    removed and the others have equal size.
    """
    if not plan.experts or value >= old:
        return False
    if name in _TOP_K:
        return value == min(cut.after for cut in plan.experts)
    if name in GROUPS:
        return all(groups_left(cut.before, cut.kept, old) == value for cut in plan.experts)
    if name in CHOSEN_GROUPS:
        counts = {count for path, count in plan.entries.items() if path[-1] in GROUPS}
        return counts == {value}
    return False


def groups_left(count: int, kept: np.ndarray, groups: int) -> int | None:
    """Groups that still hold experts, all as many; ``None`` where these are not of one size.

    >>> groups_left(8, np.array([4, 5, 6, 7]), 2), groups_left(8, np.array([0, 4, 5]), 2)
    (1, None)
    """
    if count % groups:
        return None
    sizes = np.bincount(kept // (count // groups), minlength=groups)
    left = sizes[sizes > 0]
    return len(left) if len(set(left.tolist())) == 1 else None
