"""Experts whose channels meet: an operation adds up, over the experts, what each of them has at a channel.

Fused experts can lose different channels only while each computes by itself. Their weights or inner activations may be
summed first: soft merging of experts, or a down projection that all of them share. Then position ``c`` of the sum is
position ``c`` of every expert, and they go together.
"""

from __future__ import annotations

from collections import defaultdict

from moeverify.coupling.relations import Operation, Trace
from moeverify.coupling.solving.classes import Member
from moeverify.coupling.solving.containment import closure, wholes
from moeverify.coupling.solving.links import Links


class Sums:
    """Reductions of a trace: the dimensions summed over and those that stay, given by their roots."""

    def __init__(self, trace: Trace, links: Links) -> None:
        self._trace, self._links = trace, links
        relations, root = trace.relations, links.root
        self._ends: dict[int, dict[int, int]] = defaultdict(dict)
        for over, stays, operation in relations.sums:
            self._ends[root[over]].setdefault(root[stays], operation)
        self._above = wholes(relations, root)
        self._divided: dict[int, set[int]] = defaultdict(set)
        for product in relations.products:
            self._divided[root[product.whole]].update(root[factor] for factor in product.factors)
        self._below: dict[int, set[int]] = defaultdict(set)
        for segment in relations.segments:
            self._below[root[segment.whole]].add(root[segment.part])
        for number, (factor, *_) in links.chosen.items():  # only the factor that is cut is part of the channel
            self._below[root[relations.products[number].whole]].add(factor)

    def across_experts(self, member: Member) -> Operation | None:
        """The operation that views an expert-major dimension in blocks that are not its experts, if there is one.

        Example: a matrix ``[d, E * h]`` viewed as ``[E, d, h]``. Its columns come in ``E`` blocks, but a block holds
        channels of every expert, for some of the ``d`` inputs.
        """
        relations, root = self._trace.relations, self._links.root
        channels, experts = self._factors(member, in_turn=True)
        held = self._held(channels)
        for product in relations.products:
            factors = {root[f] for f in product.factors}
            if factors & experts and not factors & held and not factors <= experts:
                return relations.operations[product.operation]
        return None

    def over_experts(self, member: Member, in_turn: bool) -> Operation | None:
        """The operation that sums a member's channels over the experts, if there is one.

        The experts are the first dimension of a stack, or with ``in_turn`` an outer factor of the member's dimension.
        A sum over some of them counts: the experts may be viewed in groups, as many for each head.
        """
        relations = self._trace.relations
        channels, experts = self._factors(member, in_turn)
        held = self._held(channels)
        containing = closure(closure(experts, self._divided), self._above)
        for over in containing:
            for stays, operation in self._ends.get(over, {}).items():
                # Where experts and channels stay side by side, what is summed over cannot be the experts.
                if stays in held and stays not in containing:
                    return relations.operations[operation]
        return None

    def _factors(self, member: Member, in_turn: bool) -> tuple[set[int], set[int]]:
        """Roots of a member's channels and of its experts."""
        relations, root = self._trace.relations, self._links.root
        dims = self._trace.tensors[member.parameter]
        if not in_turn:
            return {root[dims[member.dim]]}, {root[dims[0]]}
        whole, channels, experts = root[dims[member.dim]], set[int](), set[int]()
        for number, (factor, _, _) in self._links.chosen.items():
            factors = [root[f] for f in relations.products[number].factors]
            if root[relations.products[number].whole] == whole:
                channels.add(factor)
                experts.update(factors[: factors.index(factor)])
        return channels, experts

    def _held(self, channels: set[int]) -> set[int]:
        """Roots that contain the channels, or that the channels contain."""
        return closure(channels, self._above) | closure(channels, self._below)
