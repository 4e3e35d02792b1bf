"""``ratio-honoured``"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moeverify.checks.asked import Request
from moeverify.checks.context import Context
from moeverify.checks.evidence.counting import units_left
from moeverify.checks.evidence.router_tensors import experts_now
from moeverify.checks.registry import Finding, check, failed, inconclusive, passed

# Without a group nothing tells the role of a dimension: it keeps to one of the ratios asked for, give or take this.
PLAY = 0.1


@check("ratio-honoured")
def ratio_honoured(context: Context) -> Finding:
    """Proves that each prunable class lost the share that was asked for its role, counted in the pruned weights.

    Sizes may be rounded down to a multiple of four, of what was asked for by ``round_to``, or of what the model's
    kernels need. At least one head group stays. A role with the ratio 0 loses nothing, and
    neither do the outputs of layers that were to be ignored. Where whole experts were asked
    for, every MoE layer must have lost that share of them. A dimension that shrank without a group must match one of
    the ratios asked for, within a tenth and the rounding. Exception: attention.

    A class that the subject's plan names as adjusted must keep the number in the plan, and the claim must be true. A
    claim is true if no fewer are a multiple, or if the class joins experts. It is also true if no entry of the
    configuration gives what was asked with the model's other sizes and constants. Some claims cannot be verified, e.g.
    without a configuration. They excuse at most half of the classes; beyond that the verdict is inconclusive.
    """
    request = Request(context)
    wrong = [*_ignored(request), *_claims(request), *_classes(request), *_without_group(request), *_experts(request)]
    if wrong:
        first = wrong[0]
        text = (
            first.get("claim")
            or f"{first['parameter']} keeps {first['after']:g} of {first['before']}, wanted {first['wanted']}"
        )
        return failed(text, wrong=wrong[:50])
    adjusted = [str(a) for a in (context.outcome.plan.adjustments if context.outcome.plan is not None else ())]
    counted = _counted(request)
    if not counted:
        return failed("no prunable dimension lost anything", ratio=context.pruning_ratio)
    unseen = [context.outcome.classes[n].name for n, excuse in request.excuses.items() if not excuse.seen]
    asked_for = [c for c in context.outcome.classes if c.coupling.size > 1 and request.ratio(c)]
    if 2 * len(unseen) > len(asked_for):
        return inconclusive(
            f"{len(unseen)} of {len(asked_for)} classes keep more than was asked, for reasons that cannot be checked "
            f"without a configuration, such as {unseen[0]}; ask for the roles that can be pruned (--ratio ROLE=R)",
            adjusted=adjusted,
        )
    text = f"{counted} dimensions keep {1 - context.pruning_ratio:g} of their units, up to rounding"
    if context.ratios:
        text += "".join(f", {role} {1 - ratio:g}" for role, ratio in context.ratios.items())
    if request.ignored:
        text += f"; {len(request.ignored)} stay, as --ignore asks"
    if adjusted:
        text += f"; {len(adjusted)} classes adjusted, such as {adjusted[0]}"
    return passed(text, adjusted=adjusted)


def _ignored(request: Request) -> Iterator[dict[str, Any]]:
    """Dimensions of ignored layers and parameters that did not stay."""
    for name, dim in sorted(request.ignored):
        before = request.before[name][dim]
        now = request.after[name][dim] if name in request.after else 0
        if now != before:
            text = f"{name} dim {dim} keeps {now} of {before}, although --ignore asks for all of them"
            yield {"claim": text, "parameter": name, "dim": dim, "before": before, "after": now, "wanted": before}


def _claims(request: Request) -> Iterator[dict[str, Any]]:
    """Claims of the plan that are not true."""
    for number, excuse in request.excuses.items():
        if excuse.false:
            pruning_class = request.context.outcome.classes[number]
            yield {"claim": excuse.false, "class": pruning_class.name, "before": pruning_class.coupling.size,
                   "after": excuse.kept, "wanted": request.asked(pruning_class).wanted}  # fmt: skip


def _classes(request: Request) -> Iterator[dict[str, Any]]:
    """Dimensions that lost another share than was asked of the classes in them."""
    allowed = request.dims
    for pruning_class in request.context.outcome.classes:
        for member in pruning_class.coupling.members:
            place = (member.parameter, member.dim)
            if place not in allowed or member.buffer:
                continue
            low, high = allowed[place]
            now = request.after[member.parameter][member.dim]
            if not low <= now <= high:
                # In units of the class, if the dimension is its own.
                own = member.positions.size == request.before[member.parameter][member.dim]
                each = member.positions.shape[1] * request.experts_left(pruning_class, member) if own else 1
                before = pruning_class.coupling.size if own else request.before[member.parameter][member.dim]
                wanted = request.asked(pruning_class).wanted if own else high
                yield {"class": pruning_class.name, "parameter": member.parameter, "dim": member.dim,
                       "before": before, "after": now / each, "wanted": wanted}  # fmt: skip


def _without_group(request: Request) -> Iterator[dict[str, Any]]:
    """Dimensions that shrank and belong to no class, and lost none of the shares that were asked for."""
    context = request.context
    asked = {context.pruning_ratio, *context.ratios.values()}
    for name, dim, size, new in _shrunk_alone(request):
        off, nearest = min((abs(new - size * (1 - ratio)), ratio) for ratio in asked)
        if off > PLAY * size + request.rounding:
            yield {"parameter": name, "dim": dim, "before": size, "after": new, "wanted": units_left(size, nearest)}


def _shrunk_alone(request: Request) -> Iterator[tuple[str, int, int, int]]:
    """Name, dimension, size before and after of what shrank outside of classes and attention."""
    covered = request.dims
    classes = bool(request.context.outcome.classes)
    for name, shape in request.before.items():
        for dim, size in enumerate(shape):
            new = request.after.get(name, shape)[dim]
            if new == size or (name, dim) in covered or "attn" in name or "attention" in name:
                continue
            if not (classes and request.counts_experts(name, dim)):
                yield name, dim, size, new


def _experts(request: Request) -> Iterator[dict[str, Any]]:
    context = request.context
    for layer in context.roles.layers if "experts" in context.ratios else ():
        wanted, now = request.experts_wanted(layer), experts_now(context.pruned, layer)
        if now != wanted:
            yield {"parameter": f"{layer.name} (experts)", "before": len(layer.experts), "after": now,
                   "wanted": wanted}  # fmt: skip


def _counted(request: Request) -> int:
    layers = len(request.context.roles.layers) if "experts" in request.context.ratios else 0
    return len(request.dims) + sum(1 for _ in _shrunk_alone(request)) + layers
