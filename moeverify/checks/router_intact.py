"""``router-intact``"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from moeverify.checks.context import Context
from moeverify.checks.evidence.kept import is_part, tensors_of
from moeverify.checks.evidence.router_tensors import experts_now, is_matrix, router_axes, router_tensors, spare_classes
from moeverify.checks.evidence.stayed import comparable_ids, experts_by_content, id_tables, repeated_row
from moeverify.checks.registry import Finding, check, failed, passed, skipped
from moeverify.checks.removed_experts import kept_experts
from moeverify.checks.unrecognised import without_layers
from moeverify.models.roles import MoELayer

# Attribute names under which architectures keep these numbers, on the router or on the MoE block.
TOP_K = ("top_k", "num_experts_per_tok", "moe_top_k", "topk", "k")
GROUPS = ("n_group", "num_expert_group", "n_groups")
GROUP_LIMITS = ("topk_group", "topk_groups")
COUNTS = ("num_experts", "n_routed_experts", "num_local_experts", "num_routed_experts", "out_features")


@check("router-intact")
def router_intact(context: Context) -> Finding:
    """Proves for each MoE layer that the router matches the experts that are there. It has one row, bias and correction
    bias entry for each of them, the right ones, with their old values. Its hidden channels are those that the
    experts read.

    Does not prove that tokens go to the same experts as before: with fewer hidden channels the logits change, and
    should. ``masked-equivalence`` judges whether the whole computes what it must.
    """
    if not context.roles.layers:
        return without_layers(context.roles, explained_by="expert-isolation")
    stayed = kept_experts(context)
    routers = 0
    for layer in context.roles.layers:
        experts = experts_now(context.pruned, layer)
        for judge in (_rows, _experts, _tables, _channels, _limits):
            if (finding := judge(context, layer, stayed[layer.name], experts)) is not None:
                return finding
        routers += len(router_tensors(context.original, layer))
    if not routers:
        return skipped("no router with one entry for each expert was found")
    return passed(f"{routers} router tensors of {len(context.roles.layers)} MoE layers fit their experts")


def _rows(context: Context, layer: MoELayer, stayed: list[int], experts: int) -> Finding | None:
    after = tensors_of(context.pruned)
    axes, spares = router_axes(context.original, layer), spare_classes(context.original, layer)
    for name, before in router_tensors(context.original, layer).items():
        if name not in after:
            return failed(f"the router's {name} is gone", parameter=name)
        count, dim, spare = len(layer.experts), axes[name], spares[name]
        new = after[name]
        if new.dim() != before.dim() or new.shape[dim] != experts + spare:
            more = f" and {spare} classes without weights" if spare else ""
            return failed(
                f"{name} has shape {list(new.shape)} for {experts} experts{more}",
                parameter=name,
                dim=dim,
                before=tuple(before.shape),
                after=tuple(new.shape),
            )
        if not is_part(new, before, name, context.kept):
            return failed(f"{name} holds other values than before", parameter=name, dim=dim)
        part = context.kept.get((name, dim))
        expected = [*stayed, *range(count, count + spare)]
        if part is not None and part.exact and part.positions.tolist() != expected:
            positions = part.positions.tolist()
            return failed(f"{name} keeps experts {positions}, the router rows {stayed}", parameter=name, dim=dim)
    return None


def _experts(context: Context, layer: MoELayer, stayed: list[int], experts: int) -> Finding | None:
    """The experts themselves are those whose rows the router keeps, in the same order, by their values."""
    for name, numbers in experts_by_content(context.original, context.pruned, layer, context.kept).items():
        if len(numbers) != len(stayed):
            return failed(f"{name} holds {len(numbers)} experts, the router has rows for {len(stayed)}", parameter=name)
        known = [(a, b) for a, b in zip(numbers, stayed, strict=True) if a >= 0]
        if any(a != b for a, b in known):
            return failed(
                f"{name} holds experts {numbers}, the router's rows are those of {stayed}",
                parameter=name,
                experts=numbers,
                rows=stayed,
            )
    return None


def _tables(context: Context, layer: MoELayer, stayed: list[int], experts: int) -> Finding | None:
    """Tables of expert ids name kept experts by their present numbers, and none of them twice for one token."""
    after = tensors_of(context.pruned)
    for name, before in id_tables(context.original, layer).items():
        if name not in after or context.id_tables.get(name) != layer:
            continue
        ids = comparable_ids(before, after[name], stayed)
        if ids is None:
            return failed(
                f"{name} names experts that are not there: ids up to {int(after[name].max())} of {experts} experts",
                parameter=name,
                experts=experts,
            )
        if not bool((ids[0] == ids[1]).all()):
            row = int((ids[0] != ids[1]).reshape(len(before), -1).any(-1).nonzero()[0])
            return failed(
                f"{name} names other experts than before: row {row} was {before[row].tolist()}, is "
                f"{ids[1][row].tolist()} in the original's numbers",
                parameter=name,
                row=row,
            )
        if (row_twice := repeated_row(before, after[name])) is not None:
            return failed(f"{name} names an expert twice in row {row_twice}", parameter=name, row=row_twice)
    return None


def _channels(context: Context, layer: MoELayer, stayed: list[int], experts: int) -> Finding | None:
    """All tensors of a router that read the residual stream read the channels that the embedding keeps.

    An embedding counts only if our trace of the original couples its channels with the router's. Embeddings of classes
    or time steps may have the same width. Of several that a router reads side by side, each counts where it lies.
    """
    axes = router_axes(context.original, layer)
    for name, tensor in router_tensors(context.original, layer).items():
        if not is_matrix(tensor) or _follows_another(context.original, name, layer):
            continue
        other = 1 - axes[name]
        mine = context.kept.get((name, other))
        if mine is None or not mine.exact:
            continue
        for path, shared in _embeddings_with(context, name, other):
            theirs = context.kept.get((f"{path}.weight", 1))
            if theirs is None or not theirs.exact:
                continue
            if gone := sorted((set(mine.positions.tolist()) ^ set(theirs.positions.tolist())) & shared):
                return failed(
                    f"{name} reads other hidden channels than {path} writes: they differ in {gone[:6]}",
                    router=name,
                    embedding=path,
                    channels=gone[:50],
                )
    return None


def _embeddings_with(context: Context, router: str, dim: int) -> list[tuple[str, set[int]]]:
    """Embeddings whose channels are coupled with a router's dimension, position by position.

    Each comes with the coupled positions.
    """
    classes = () if context.couplings is None else context.couplings.classes
    result = []
    for coupling in classes:
        positions = {(m.parameter, m.dim): m.positions for m in coupling.members if not m.buffer}
        mine = positions.get((router, dim))
        if mine is None:
            continue
        for path, module in context.original.named_modules():
            theirs = positions.get((f"{path}.weight", 1)) if isinstance(module, nn.Embedding) else None
            if theirs is not None and np.array_equal(theirs, mine):
                result.append((path, set(mine.ravel().tolist())))
    return result


def _follows_another(model: nn.Module, name: str, layer: MoELayer) -> bool:
    """Whether another layer of the same router may feed this one, so that it does not read the residual stream."""
    return any(
        other.rpartition(".")[0] != name.rpartition(".")[0] and p.dim() == 2
        for router in layer.routers
        if name.startswith(router + ".")
        for other, p in model.get_submodule(router).named_parameters(prefix=router)
    )


def _numbers(context: Context, layer: MoELayer, names: tuple[str, ...], of: nn.Module | None = None) -> dict[str, int]:
    """Attributes of the block and its routers with one of ``names``, of the pruned model unless another is given."""
    result: dict[str, int] = {}
    routing = {name.rpartition(".")[0] for name in router_tensors(context.original, layer)}
    for path in (layer.name, *(r for r in layer.routers if r in routing)):
        module: Any = (of or context.pruned).get_submodule(path)
        for attribute in names:
            value = vars(module).get(attribute)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                result[f"{path}.{attribute}" if path else attribute] = value
    return result


def _limits(context: Context, layer: MoELayer, stayed: list[int], experts: int) -> Finding | None:
    spare = max(spare_classes(context.original, layer).values(), default=0)
    before = _numbers(context, layer, COUNTS, of=context.original)
    for where, count in _numbers(context, layer, COUNTS).items():
        counts_experts = before.get(where) in (
            len(layer.experts),
            len(layer.experts) + spare,
        )  # else it means something else
        if counts_experts and count not in (experts, experts + spare):
            return failed(f"{where} is {count}, and there are {experts} experts", attribute=where, says=count)
    groups, chosen = _numbers(context, layer, GROUPS), _numbers(context, layer, GROUP_LIMITS)
    experts += spare
    available = experts
    for where, count in groups.items():
        if experts % count:
            return failed(f"{experts} experts do not make {count} equal groups ({where})", attribute=where)
        for limit, number in chosen.items():
            if number > count:
                return failed(f"{limit} chooses {number} groups of {count}", attribute=limit)
            available = min(available, number * (experts // count))
    for where, k in _numbers(context, layer, TOP_K).items():
        if k > available:
            return failed(f"{where} chooses {k} of {available} experts", attribute=where, experts=available)
    return None
