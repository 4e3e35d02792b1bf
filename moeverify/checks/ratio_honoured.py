"""``ratio-honoured``"""

from __future__ import annotations

from moeverify.checks.context import Context
from moeverify.checks.evidence.counting import kernel_multiple, units_left
from moeverify.checks.evidence.router_tensors import experts_now
from moeverify.checks.registry import Finding, check, failed, passed
from moeverify.coupling.classify import PruningClass
from moeverify.coupling.solving.solve import Member

# Torch-Pruning's round_to and whole heads leave a few units of play.
ROUNDING = 4


@check("ratio-honoured")
def ratio_honoured(context: Context) -> Finding:
    """Proves that each prunable class lost the share that was asked for its role, counted in the pruned weights.

    Sizes may be rounded down to a multiple of four, of what was asked for by ``round_to``, or of what the model's
    kernels need; at least one head group stays. A role with the ratio 0 loses nothing. A class that the subject's plan
    names as adjusted, with the rule of the configuration that asks for it, must keep what the plan says, and is told in
    the message. Where whole experts were asked for, every MoE layer must have lost that share of them. For a subject
    without groups every dimension that shrank is held to one of the ratios asked for, give or take a tenth and the
    rounding, attention excepted.
    """
    after = {context.source_names.get(n, n): p.shape for n, p in context.pruned.named_parameters()}
    before = {n: p.shape for n, p in context.original.named_parameters()}
    wrong = []
    counted = 0
    rounding = max(ROUNDING, kernel_multiple(context.original), context.round_to or 1)
    plan = context.outcome.plan
    adjusted = {_key(a.pruning_class): a for a in (plan.adjustments if plan is not None else ())}
    for pruning_class in context.outcome.classes:
        size = pruning_class.coupling.size
        if size < 2:
            continue
        ratio = context.ratio_of(pruning_class.role)
        wanted = units_left(size, ratio)
        low, high = max(wanted - rounding + 1, 1), wanted
        if ratio == 0 or pruning_class.role == "heads":  # heads go whole, and a role that is left alone keeps all
            low = high = max(wanted, 1)
        if (adjustment := adjusted.get(_key(pruning_class))) is not None:
            low = high = adjustment.kept
        for member in pruning_class.coupling.members:
            if member.buffer or member.positions.size != before[member.parameter][member.dim]:
                continue
            if member.parameter not in after:  # it went with its expert
                continue
            each = member.positions.shape[1] * _experts_left(context, pruning_class, member)
            kept = after[member.parameter][member.dim] / each
            counted += 1
            if not low <= kept <= high:
                wrong.append({"class": pruning_class.name, "parameter": member.parameter, "dim": member.dim,
                              "before": size, "after": kept, "wanted": wanted})  # fmt: skip
    if not context.outcome.classes:
        for name, shape in before.items():
            for dim, size in enumerate(shape):
                new = after.get(name, shape)[dim]
                if new == size or "attn" in name or "attention" in name:
                    continue
                counted += 1
                # Without groups nothing tells the role of a dimension: it keeps to one of the ratios asked for.
                asked = {context.pruning_ratio, *context.ratios.values()}
                off, nearest = min((abs(new - size * (1 - ratio)), ratio) for ratio in asked)
                if off > 0.1 * size + rounding:
                    wrong.append({"parameter": name, "dim": dim, "before": size, "after": new,
                                  "wanted": units_left(size, nearest)})  # fmt: skip
    for layer in context.roles.layers if "experts" in context.ratios else ():
        wanted, now = units_left(len(layer.experts), context.ratio_of("experts")), experts_now(context.pruned, layer)
        counted += 1
        if now != wanted:
            wrong.append({"parameter": f"{layer.name} (experts)", "before": len(layer.experts), "after": now,
                          "wanted": wanted})  # fmt: skip
    if wrong:
        first = wrong[0]
        return failed(
            f"{first['parameter']} keeps {first['after']:g} of {first['before']}, wanted {first['wanted']}",
            wrong=wrong[:50],
        )
    if not counted:
        return failed("no prunable dimension lost anything", ratio=context.pruning_ratio)
    said = f"{counted} dimensions keep {1 - context.pruning_ratio:g} of their units, up to rounding"
    if context.ratios:
        said += "".join(f", {role} {1 - ratio:g}" for role, ratio in context.ratios.items())
    if adjusted:
        first = next(iter(adjusted.values()))
        said += f"; {len(adjusted)} classes adjusted, such as {first}"
    return passed(said, adjusted=[str(a) for a in adjusted.values()])


def _experts_left(context: Context, pruning_class: PruningClass, member: Member) -> float:
    """The share of the experts that stayed, of a dimension that holds all experts' channels one after the other."""
    layer = context.roles.layer_of(pruning_class.where)
    if layer is None or (member.parameter, member.dim) not in pruning_class.in_turn:
        return 1.0
    return experts_now(context.pruned, layer) / len(layer.experts)


def _key(pruning_class: PruningClass) -> tuple[str, int, frozenset[str]]:
    return pruning_class.name, pruning_class.coupling.size, pruning_class.coupling.parameters
