"""Counts, groups and top-k that fit together, or do not."""

from __future__ import annotations

from pruned_folders.catalogue import right, wrong
from pruned_folders.scripts import ASCENDING, experts


@right("top-k-lowered-as-it-must-be", "qwen3_moe")
def _(folder, draft):
    base = draft.copy().set(num_experts_per_tok=4)
    base.write(folder / "base")
    return experts(draft, [1, 5, 6]).set(num_experts_per_tok=3)


@right("whole-group-removed", "deepseek_v3")
def _(folder, draft):
    return experts(draft, [4, 5, 6, 7]).set(n_group=1)


@wrong("top-k-above-the-count", "qwen3_moe", "topology", "each token takes")
def _(folder, draft):
    return experts(draft, [4])


@wrong("experts-that-groups-do-not-divide", "deepseek_v3", "topology", "do not divide")
def _(folder, draft):
    return experts(draft, [0, 1, 2, 4, 5])


@wrong("one-expert-a-group", "deepseek_v3", "topology", "best two")
def _(folder, draft):
    return experts(draft, [1, 6])


@wrong("groups-mixed", "deepseek_v3", "topology", "groups were mixed")
def _(folder, draft):
    return experts(draft, [0, 1, 2, 4])


@wrong("top-k-above-what-groups-hold", "deepseek_v3", "topology", "hold fewer")
def _(folder, draft):
    base = draft.set(num_experts_per_tok=3)
    base.write(folder / "base")
    return experts(base.copy(), ASCENDING)
