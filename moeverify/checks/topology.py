"""``topology``"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from moeverify.base.foreign import left_by
from moeverify.checks.context import Context
from moeverify.checks.evidence.choices import Router, routers_of
from moeverify.checks.evidence.router_tensors import experts_now, spare_classes
from moeverify.checks.registry import Finding, check, failed, passed, skipped
from moeverify.checks.removed_experts import kept_experts
from moeverify.checks.unrecognised import NO_LAYER
from moeverify.models.engines.entries import router_sizes
from moeverify.models.engines.limit import Limit, exceeded
from moeverify.models.engines.table import LIMITS
from moeverify.models.exercise import run_all
from moeverify.models.moe_layer import MoELayer


@check("topology")
def topology(context: Context) -> Finding:
    """Proves that every router of the pruned model chooses as the original's does, out of fewer experts. It takes as
    many for each token, in as many groups of equal size, and no expert is in another group than before.

    Numbers are seen while both models run: every ``topk`` over the experts' scores, over groups, inside of groups. At
    least as many experts as are chosen must be in the groups that are chosen, and as many in each group as score it.
    Limits of serving engines are notes. Does not prove that the right experts were removed.
    """
    layers = context.roles.layers
    if not layers:
        return skipped(NO_LAYER)
    seen = routers_of(context.original, context.roles, lambda model: run_all(model, context.example_inputs))
    before = {x.name: seen[x.name] for x in layers if x.name in seen and _of_experts(context.original, x, seen[x.name])}
    if not before:
        return skipped("no router chooses experts by topk")
    try:
        after = routers_of(context.pruned, context.pruned_roles, lambda model: run_all(model, context.example_inputs))
    except Exception as error:
        return failed(f"the pruned model does not run: {left_by(error)}")
    stayed = kept_experts(context)
    kind = getattr(getattr(context.pruned, "config", None), "model_type", "")
    limits: dict[Limit, None] = {}
    for layer in layers:
        if layer.name not in before:
            continue
        count, now = len(layer.experts), experts_now(context.pruned, layer)
        old, new = before[layer.name], after.get(layer.name)
        if new is not None and not new.grouped and old.groups == new.scores > 1:  # each group keeps one expert
            new = replace(new, groups=old.groups, chosen_groups=old.chosen_groups, group_scores=old.group_scores)
        problem = _problem(old, new, count, now) or _regrouped(old, count, stayed[layer.name])
        if problem:
            numbers_now = vars(new) if new else None
            return failed(f"{layer.name}: {problem}", layer=layer.name, before=vars(old), after=numbers_now)
        limits |= dict.fromkeys(_outside(new or old, now, kind))
    numbers = sorted({experts_now(context.pruned, layer) for layer in layers})
    text = f"{len(layers)} MoE layers choose as before among {' or '.join(map(str, numbers))} experts"
    grave = [f"note: {limit}" for limit in limits if limit.effect != "slower"]
    return passed("; ".join([text, *grave]), notes=[str(limit) for limit in limits], experts=numbers)


def _of_experts(original: nn.Module, layer: MoELayer, router: Router) -> bool:
    """Whether the scores are those of experts and of classes without weights, and not those of tokens for an expert."""
    return router.scores - len(layer.experts) in {0, *spare_classes(original, layer).values()}


def _problem(old: Router, new: Router | None, count: int, now: int) -> str:
    """Fault of a router's numbers; empty if there is none."""
    if new is None:
        return f"nothing is chosen among its {now} experts any more"
    spare = old.scores - count
    if new.scores != now + spare:
        more = f" and {spare} classes" if spare else ""
        return f"it chooses among {new.scores} scores, there are {now} experts{more}"
    if new.top_k != old.top_k:
        return f"each token goes to {new.top_k} experts, it was {old.top_k}"
    if new.groups != old.groups:
        if new.scores % old.groups:
            return f"{new.scores} experts do not make {old.groups} equal groups"
        return f"it has {new.groups} groups, there were {old.groups}"
    if new.chosen_groups != old.chosen_groups:
        return f"it chooses {new.chosen_groups} groups, it was {old.chosen_groups}"
    each = new.scores // new.groups
    if new.scores % new.groups:
        return f"{new.scores} experts do not make {new.groups} equal groups"
    if each < old.group_scores or new.group_scores != old.group_scores:
        return f"each group is scored by its best {old.group_scores} experts, and has {each}"
    if new.top_k > new.chosen_groups * each:
        return f"it chooses {new.top_k} experts out of {new.chosen_groups} groups of {each}"
    return ""


def _regrouped(old: Router, count: int, stayed: list[int]) -> str:
    """Whether an expert stands in another group than before."""
    if old.groups == 1 or not stayed or len(stayed) % old.groups:
        return ""
    was, now = count // old.groups, len(stayed) // old.groups
    for place, expert in enumerate(stayed):
        if expert // was != place // now:
            kept = [sum(e // was == group for e in stayed) for group in range(old.groups)]
            return (
                f"expert {expert} moves from group {expert // was} to group {place // now}: the groups keep "
                f"{', '.join(map(str, kept))} experts"
            )
    return ""


def _outside(router: Router, now: int, model_type: str = "") -> list[Limit]:
    """Limits of serving engines that a router lies beyond."""
    return exceeded(LIMITS, router_sizes(now, router.groups, router.chosen_groups), model_type)
