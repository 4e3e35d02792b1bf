"""Units that a ratio asks of every class and dimension, and the true claims of a plan to keep more."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from moeverify.checks.context import Context
from moeverify.checks.evidence.counting import kernel_multiple, units_left
from moeverify.checks.evidence.expressible import Dim, EntryValue, ExpressibleCounts
from moeverify.checks.evidence.ignored import dimensions_that_stay, ignored_tensors
from moeverify.checks.evidence.router_tensors import experts_now, router_axes
from moeverify.checks.evidence.stayed import id_tables
from moeverify.coupling.classify import PruningClass, classify
from moeverify.coupling.solving.solve import Member
from moeverify.models.moe_layer import MoELayer
from moeverify.models.skeleton import has_config

# Torch-Pruning's round_to and whole heads leave a few units of play.
ROUNDING = 4


@dataclass(frozen=True)
class Asked:
    """Units that a class may keep, from ``low`` to ``high``, and how many the ratio gives (``wanted``)."""

    low: int
    high: int
    wanted: int


@dataclass(frozen=True)
class Excuse:
    """Reason for a class to keep ``kept`` units, which was not asked; ``false``: why the claim is no excuse.

    ``seen``: the judge found the reason itself.
    """

    kept: int
    seen: bool
    false: str = ""


class Request:
    """Units asked of each class that the subject shows, by the judge's own arithmetic."""

    def __init__(self, context: Context) -> None:
        self.context = context
        # Channels that are kept are a multiple of this.
        self.step = 1
        # A size that both ask for is a multiple of both.
        self.rounding = max(ROUNDING, math.lcm(kernel_multiple(context.original), context.round_to or 1))
        self.before = {n: p.shape for n, p in context.original.named_parameters()}
        # Sizes of the pruned model by the original's names, and its own names.
        self.now = {context.source_names.get(n, n): n for n, _ in context.pruned.named_parameters()}
        shapes = {n: p.shape for n, p in context.pruned.named_parameters()}
        self.after = {source: shapes[name] for source, name in self.now.items()}

    def ratio(self, pruning_class: PruningClass) -> float:
        """The share asked for, none of what was to be ignored; a class of the judge's own trace has its role there."""
        return 0.0 if _places(pruning_class) & self.ignored else self.context.ratio_of(self._role(pruning_class))

    @cached_property
    def ignored(self) -> frozenset[Dim]:
        """Dimensions that were to stay because their layer or parameter was to be ignored."""
        return dimensions_that_stay(self.context.original, self.context.ignore)

    def experts_wanted(self, layer: MoELayer) -> int:
        """Number of experts that a layer was to keep: all of them where a part of one, or the router, was ignored."""
        tensors = ignored_tensors(self.context.original, self.context.ignore)
        own = {*layer.stacks, *router_axes(self.context.original, layer), *id_tables(self.context.original, layer)}
        routers = tuple(f"{router}." for router in layer.routers)
        if any(name in own or name.startswith(routers) or layer.owner(name) is not None for name in tensors):
            return len(layer.experts)
        return units_left(len(layer.experts), self.context.ratio_of("experts"))

    def asked(self, pruning_class: PruningClass) -> Asked:
        """Units that a class may keep without an excuse."""
        ratio = self.ratio(pruning_class)
        wanted = units_left(pruning_class.coupling.size, ratio)
        if ratio == 0 or pruning_class.role == "heads":  # heads go whole, and a role that is left alone keeps all
            return Asked(max(wanted, 1), max(wanted, 1), wanted)
        high = wanted // self.step * self.step
        size = pruning_class.coupling.size
        return (
            Asked(max(wanted - self.rounding + 1, 1), high, wanted) if high or not wanted else Asked(size, size, wanted)
        )

    @cached_property
    def excuses(self) -> Mapping[int, Excuse]:
        """For the number of each class that keeps what was not asked, and that the plan claims a reason for."""
        plan, classes = self.context.outcome.plan, self.context.outcome.classes
        claimed = {_key(a.pruning_class): a.kept for a in (plan.adjustments if plan is not None else ())}
        result = {}
        for number, pruning_class in enumerate(classes):
            kept, asked = claimed.get(_key(pruning_class)), self.asked(pruning_class)
            if kept is not None and not asked.low <= kept <= asked.high:
                result[number] = self._excuse(pruning_class, kept, asked)
        return result

    @cached_property
    def dims(self) -> Mapping[Dim, tuple[float, float]]:
        """Least and largest size that each dimension of the classes may have now, by original name. A class with a true
        excuse may keep what it keeps.
        """
        lost: dict[Dim, list[tuple[float, float, int]]] = defaultdict(list)
        for number, pruning_class in enumerate(self.context.outcome.classes):
            asked, size = self.asked(pruning_class), pruning_class.coupling.size
            if (excuse := self.excuses.get(number)) is not None and not excuse.false:
                asked = replace(asked, low=excuse.kept, high=excuse.kept)
            if size < 2:
                asked = Asked(size, size, size)
            for member in pruning_class.coupling.members:
                if not member.buffer and member.parameter in self.after:
                    each = member.positions.shape[1] * self.experts_left(pruning_class, member)
                    gone = ((size - asked.high) * each, (size - asked.low) * each)
                    lost[member.parameter, member.dim].append((*gone, member.positions.size))
        result = {}
        for (name, dim), parts in lost.items():
            covered = sum(places for *_, places in parts)
            if covered > self.before[name][dim]:
                continue  # groups that overlap say nothing of a dimension
            size = self.before[name][dim] * self._share_left(name, dim)
            least = sum(least for least, _, _ in parts)
            if covered < self.before[name][dim]:
                least = 0.0  # the rest of it is frozen, and so a class in it may be
            result[name, dim] = (size - sum(most for _, most, _ in parts), size - least)
        return result

    def experts_left(self, pruning_class: PruningClass, member: Member) -> float:
        """Share of the experts that stayed, for an expert-major dimension."""
        layer = self.context.roles.layer_of(pruning_class.where)
        if layer is None or (member.parameter, member.dim) not in pruning_class.in_turn:
            return 1.0
        return experts_now(self.context.pruned, layer) / len(layer.experts)

    def counts_experts(self, name: str, dim: int) -> bool:
        """Whether a dimension became smaller as the number of experts of its layer did."""
        sizes = self.before[name][dim], self.after[name][dim]
        return any(
            name.startswith(f"{layer.name}.") and sizes == (len(layer.experts), experts_now(self.context.pruned, layer))
            for layer in self.context.roles.layers
        )

    def _share_left(self, name: str, dim: int) -> float:
        for pruning_class in self.context.outcome.classes:
            for member in pruning_class.coupling.members:
                if (member.parameter, member.dim) == (name, dim):
                    return self.experts_left(pruning_class, member)
        return 1.0

    def _role(self, pruning_class: PruningClass) -> str:
        if not self.context.ratios:
            return pruning_class.role
        roles = {self._roles[place] for place in _places(pruning_class) if place in self._roles}
        return roles.pop() if len(roles) == 1 else pruning_class.role

    @cached_property
    def _judged(self) -> tuple[PruningClass, ...]:
        couplings = self.context.couplings
        if couplings is None:
            return ()
        return classify(self.context.original, couplings.classes, self.context.roles, couplings)

    @cached_property
    def _roles(self) -> Mapping[Dim, str]:
        """Roles by dimension, of dimensions that the classes of the judge's own trace give one role."""
        result: dict[Dim, set[str]] = defaultdict(set)
        for pruning_class in self._judged:
            for place in _places(pruning_class):
                result[place].add(pruning_class.role)
        return {place: min(roles) for place, roles in result.items() if len(roles) == 1}

    def _excuse(self, pruning_class: PruningClass, kept: int, asked: Asked) -> Excuse:
        """Verify a claim of the plan by the judge's own evidence."""
        size = pruning_class.coupling.size
        if any(kept == min(size, -(-max(asked.wanted, 1) // m) * m) for m in self._multiples()):
            return Excuse(kept, seen=True)  # no fewer are a multiple
        if self._across_experts(pruning_class):
            return Excuse(kept, seen=True)
        if self._expressible is None:
            return Excuse(kept, seen=False)
        if (entry := self._entry(pruning_class, kept, asked)) is None:
            return Excuse(kept, seen=True)
        if entry.runs is None:
            return Excuse(kept, seen=False)
        claim = f"{pruning_class.name} keeps {kept} of {size}, wanted {asked.wanted}"
        return Excuse(
            kept,
            True,
            f"{claim}: the plan claims that no entry gives what was asked, but {entry.entry} = {entry.value} does",
        )

    def _multiples(self) -> set[int]:
        kernel, asked = kernel_multiple(self.context.original), self.context.round_to or 1
        return {ROUNDING, kernel, asked, math.lcm(kernel, asked)}

    @cached_property
    def _without_heads(self) -> Mapping[Dim, tuple[float, float]]:
        """The same, but dimensions of heads stay: an entry that is no number of heads makes them narrower instead."""
        heads = {(self.now.get(n, n), d) for c in self._judged if c.role == "heads" for n, d in _places(c)}
        return {dim: sizes for dim, sizes in self._allowed.items() if dim not in heads}

    @cached_property
    def _kept_multiple(self) -> int:
        """The largest multiple that the subject may have rounded to: it divides the kept channels of all classes."""
        kept = set()
        for pruning_class in self.context.outcome.classes:
            for member in pruning_class.coupling.members if pruning_class.role != "heads" else ():
                before, after = self.before.get(member.parameter, ()), self.after.get(member.parameter)
                if not member.buffer and after is not None and member.positions.size == before[member.dim]:
                    each = member.positions.shape[1] * self.experts_left(pruning_class, member)
                    kept |= {after[member.dim] / each} - {pruning_class.coupling.size}
        return max((m for m in self._multiples() if kept and not any(count % m for count in kept)), default=1)

    def _across_experts(self, pruning_class: PruningClass) -> bool:
        """Whether a class removes channels of two experts together, or fused experts must keep the same channels."""
        boundaries = {self.context.roles.boundary(name) for name in pruning_class.coupling.parameters} - {None}
        if len(boundaries) > 1 and pruning_class.role != "hidden":
            return True
        places = _places(pruning_class)
        return any(c.joint and places & _places(c) for c in self._judged)

    @cached_property
    def _expressible(self) -> ExpressibleCounts | None:
        pruned = self.context.pruned
        return ExpressibleCounts(pruned, self.context.example_inputs) if has_config(pruned) else None

    def _entry(self, pruning_class: PruningClass, kept: int, asked: Asked) -> EntryValue | None:
        assert self._expressible is not None
        dims = {
            (self.now[m.parameter], m.dim): self.after[m.parameter][m.dim]
            for m in pruning_class.coupling.members
            if m.parameter in self.now and m.positions.size == self.before[m.parameter][m.dim]
        }
        if not dims:
            return None
        step = 1 if pruning_class.role == "heads" else self._kept_multiple
        counts = [count for count in range(asked.high, asked.low - 1, -1) if count % step == 0]
        whole = pruning_class.role == "heads" or any(m.positions.shape[1] > 1 for m in pruning_class.coupling.members)
        allowed = self._allowed if pruning_class.role == "heads" else self._without_heads
        return self._expressible.counts(dims, kept, counts, allowed, whole_units=whole)

    @cached_property
    def _allowed(self) -> Mapping[Dim, tuple[float, float]]:
        """Least and most sizes that the ratios alone allow, by the pruned model's names; excuses widen none.

        They are multiples of what the subject rounded to: an entry that gives others is not what was asked of it.
        """
        plain = Request(self.context)
        plain.__dict__["excuses"] = {}
        plain.step = self._kept_multiple
        return {(self.now[name], dim): sizes for (name, dim), sizes in plain.dims.items()}


def _places(pruning_class: PruningClass) -> set[Dim]:
    return {(m.parameter, m.dim) for m in pruning_class.coupling.members}


def _key(pruning_class: PruningClass) -> tuple[str, int, frozenset[str]]:
    return pruning_class.name, pruning_class.coupling.size, pruning_class.coupling.parameters
