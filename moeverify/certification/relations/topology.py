"""``topology``"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from moeverify.certification.evidence import Evidence, NotVisible
from moeverify.certification.relations.registry import more, relation
from moeverify.checks.registry import Finding, failed, passed, skipped
from moeverify.models.roles import MoELayer

_TOP_K = ("top_k", "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "topk", "top_k_experts",
          "num_selected_experts", "moe_k", "k")  # fmt: skip
_GROUPS = ("n_group", "n_groups", "num_expert_group", "num_expert_groups", "moe_n_group")
_TOP_GROUPS = ("topk_group", "topk_groups", "num_limited_groups", "moe_topk_group")


@relation("topology")
def topology(evidence: Evidence) -> Finding:
    """Every router can choose what it has to: enough experts, in groups of equal size made of the base's groups."""
    model, config = evidence.pruned.skeleton.model, evidence.pruned.skeleton.config
    layers = evidence.pruned_roles.layers or _by_map(evidence)
    if not layers:
        return skipped("the model has no routed experts")
    lines = [line for layer in layers for line in _rules(model, config, layer)]
    if not lines:
        try:
            lines = list(_same_groups(evidence))
        except NotVisible:
            lines = []
    if lines:
        return failed(more(list(dict.fromkeys(lines))), problems=lines)
    counts = sorted({len(layer.experts) for layer in layers})
    return passed(f"{len(layers)} MoE layers of {', '.join(map(str, counts))} experts fit top-k and groups")


def _by_map(evidence: Evidence) -> tuple[MoELayer, ...]:
    """The base's MoE layers with the experts that stayed: a single one is not recognised by structure."""
    result = []
    with contextlib.suppress(NotVisible):
        for number, experts in evidence.keep.experts.items():
            layer = evidence.structure.roles.layers[number]
            name = evidence.keep.to_pruned(layer.name)
            routers = tuple(r for x in layer.routers if (r := evidence.keep.to_pruned(x)) is not None)
            if name is not None:
                result.append(replace(layer, name=name, routers=routers, experts=layer.experts[: len(experts)]))
    return tuple(result)


def _rules(model: nn.Module, config: Any, layer: MoELayer) -> Iterator[str]:
    count = len(layer.experts)
    top_k = number(model, config, layer, _TOP_K)
    groups, top_groups = number(model, config, layer, _GROUPS), number(model, config, layer, _TOP_GROUPS)
    if top_k is not None and top_k > count:
        yield f"{layer.name} has {count} experts, but each token takes {top_k}: the forward fails"
    if groups is None or groups <= 1 or not _is_grouped(model, layer):
        return
    if count % groups:
        yield f"{layer.name} has {count} experts in {groups} groups: they do not divide, tokens are mixed or it fails"
        return
    each = count // groups
    if each < 2:
        yield f"{layer.name} has {each} expert in each of {groups} groups: a group's score is that of its best two"
    if top_groups is not None and top_groups > groups:
        yield f"{layer.name} takes {top_groups} of {groups} groups"
    elif top_groups is not None and top_k is not None and top_k > top_groups * each:
        yield f"{layer.name}: each token takes {top_k} experts, but {top_groups} groups of {each} hold fewer"


def number(model: nn.Module, config: Any, layer: MoELayer, names: tuple[str, ...]) -> int | None:
    """A number of a MoE layer: an attribute of its router or block, or an entry of the configuration."""
    owners = [model.get_submodule(name) for name in (*layer.routers, layer.name)]
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for owner in (*owners, text, config):
        for name in names:
            value = getattr(owner, name, None)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
    return None


def _is_grouped(model: nn.Module, layer: MoELayer) -> bool:
    """Whether the layer itself reads a number of groups: a state-space model has groups of another kind."""
    owners = [model.get_submodule(name) for name in (*layer.routers, layer.name)]
    return any(hasattr(owner, name) for owner in owners for name in (*_GROUPS, *_TOP_GROUPS))


def _same_groups(evidence: Evidence) -> Iterator[str]:
    """Experts that shared a group share one now, and no two groups became one."""
    base = evidence.base.skeleton
    for index, experts in evidence.keep.experts.items():
        layer = evidence.structure.roles.layers[index]
        name = evidence.keep.to_pruned(layer.name)
        if name is None:
            continue
        before = number(base.model, base.config, layer, _GROUPS)
        now = next((x for x in evidence.pruned_roles.layers if x.name == name), None)
        if before is None or before <= 1 or now is None or not _is_grouped(base.model, layer):
            continue
        skeleton = evidence.pruned.skeleton
        after = number(skeleton.model, skeleton.config, now, _GROUPS) or 1
        chosen = number(base.model, base.config, layer, _TOP_GROUPS)
        chosen_now = number(skeleton.model, skeleton.config, now, _TOP_GROUPS)
        if chosen is not None and chosen_now is not None and chosen_now != min(chosen, after):
            yield f"{name}: a token takes {chosen_now} of {after} groups, in the base {chosen} of {before}"
        if (experts < 0).any() or len(experts) % after or len(layer.experts) % before:
            continue
        groups = (experts // (len(layer.experts) // before)).reshape(after, -1)
        for group, members in enumerate(groups):
            if len(set(members.tolist())) > 1:
                numbers = ", ".join(map(str, members.tolist()))
                yield f"{name}: group {group} holds experts of the base's groups {numbers}: groups were mixed"
                break
        else:
            if len(np.unique(groups[:, 0])) < after:
                yield f"{name}: two groups hold experts of one group of the base"
