"""Weights that take over a factor which a forward no longer multiplies by.

Two searches over a recorded forward call each other. ``produce`` finds folds that make a value ``factor`` times as
large. ``cancel`` finds folds that hide from all later operations that a value is ``factor`` times as large. Both are
exact: they pass only through linear operations, and every other reader of a scaled weight gets the inverse factor.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from moeverify.pruning.constants.numbers import Forward, Number, Step
from moeverify.pruning.plan.folds import Fold

# Operations that give a multiple of what they get, in their first argument.
_LINEAR = ("t", "transpose", "view", "reshape", "_unsafe_view", "permute", "expand", "unsqueeze", "squeeze", "clone")
_LINEAR += ("contiguous", "_to_copy", "alias", "detach", "lift_fresh", "neg", "sum", "mean", "relu", "native_dropout")
_PARTIAL = ("select", "slice", "index_select", "index", "gather")
# What a value read through these becomes is only a part of it, so the parts beside it would change, too.
_PARTS = frozenset(f"aten.{name}" for name in _PARTIAL)
_PASS = frozenset(f"aten.{name}" for name in _LINEAR) | _PARTS
# Linear in each of two arguments.
_PRODUCTS = {"aten.mul": (0, 1), "aten.mm": (0, 1), "aten.bmm": (0, 1), "aten.embedding": (0,), "aten.mv": (0, 1)}
# A product and what is added to it.
_WITH_BIAS = {
    "aten.linear": (2, (0, 1)),
    "aten.addmm": (0, (1, 2)),
    "aten.baddbmm": (0, (1, 2)),
    "aten.convolution": (2, (0, 1)),
    "aten.native_layer_norm": (3, (2,)),
    "aten.native_group_norm": (2, (1,)),
    "aten._fused_rms_norm": (-1, (2,)),
}
_MOST_QUESTIONS = 20_000
_DEEPEST = 64


class _TooDeep(Exception):
    """The search exceeds its depth limit."""


def absorb_all(forward: Forward, numbers: Sequence[Number]) -> tuple[list[Fold], list[Number]]:
    """Folds that take over ``numbers``, and the numbers that no weight can take over."""
    alike: dict[tuple, list[Number]] = defaultdict(list)
    for number in numbers:
        alike[number.module, number.operation, number.position, number.old, number.new].append(number)
    folds: list[Fold] = []
    unabsorbed: list[Number] = []
    for group in alike.values():
        together = _absorb_calls(forward, group) if len(group) > 1 else None
        if together is not None:
            folds += together
            continue
        for number in group:
            own_folds = absorb(forward, number)
            if own_folds is None:
                unabsorbed.append(number)
            else:
                folds += own_folds
    return folds, unabsorbed


def _absorb_calls(forward: Forward, numbers: Sequence[Number]) -> list[Fold] | None:
    """One fold for all calls of a module that runs several times with the same weights.

    ``None`` if other modules read the weights, or if another reader would need the inverse factor.
    """
    search = _Search(forward, calls=True)
    folds: dict[str, Fold] = {}
    covered: dict[str, set[int]] = defaultdict(set)
    for number in numbers:
        search.shared.clear()
        for fold in absorb(forward, number, search) or ():
            readers = search.shared.get(fold.parameter, set())
            if len(readers) != 1 or readers <= covered[fold.parameter] or folds.get(fold.parameter, fold) != fold:
                return None
            covered[fold.parameter] |= readers
            folds[fold.parameter] = fold
        if not search.shared:
            return None
    names = {name: value for value, name in forward.parameters.items()}
    if any(set(forward.readers[names[name]]) != readers for name, readers in covered.items()):
        return None
    return list(folds.values())


def absorb(forward: Forward, number: Number, search: _Search | None = None) -> list[Fold] | None:
    """Folds after which the forward with the new number computes what it computed with the old one; ``None`` if none
    exist.

    Only factors can be taken over: ``x * c``, ``x / c``, the scale of fused attention, or a constant tensor in a
    product.
    """
    if number.step is None or not number.old or not number.new or not math.isfinite(number.new / number.old):
        return None
    step = forward.steps[number.step]
    ratio = number.new / number.old
    search = search or _Search(forward)
    try:
        if step.operation == "aten.lift_fresh" and len(step.numbers) == 1:
            return search.cancel(step.outputs[0], ratio)
        if step.operation in ("aten.mul", "aten.mul_") and 0 in step.inputs:
            return _either(search, number.step, step, ratio)
        if step.operation in ("aten.div", "aten.div_") and 0 in step.inputs:
            return _either(search, number.step, step, 1 / ratio)
        if "scaled_dot_product" in step.operation and number.position == "scale":
            return search.first([(step.inputs[place], 1 / ratio) for place in (0, 1)], number.step)
        if step.operation in ("aten.full", "aten.scalar_tensor") and step.outputs:
            return search.cancel(step.outputs[0], ratio)
    except _TooDeep:
        return None
    return None


def _either(search: _Search, number: int, step: Step, ratio: float) -> list[Fold] | None:
    """Folds that scale the input of a step, or else cancel the factor at its output."""
    before = search.produce(step.inputs[0], 1 / ratio, number)
    return before if before is not None else search.cancel(step.outputs[0], ratio)


class _Search:
    """State of one search.

    ``calls``: further calls of the same module that may read a weight. ``shared``: the step that asked for each of
    them.
    """

    def __init__(self, forward: Forward, *, calls: bool = False) -> None:
        self.forward = forward
        self.calls = calls
        self.shared: dict[str, set[int]] = {}
        self.questions = 0
        self.depth = 0

    def _ask(self, question: str, value: int, factor: float, reader: int | None) -> list[Fold] | None:
        self.questions += 1
        if self.questions > _MOST_QUESTIONS or self.depth > _DEEPEST:
            raise _TooDeep
        if value in self.forward.muddled:
            return None
        self.depth += 1
        try:
            if question == "produce":
                return self._produce(value, factor, reader)
            return self._cancel(value, factor)
        finally:
            self.depth -= 1

    def produce(self, value: int, factor: float, reader: int) -> list[Fold] | None:
        """Folds that scale ``value`` by ``factor`` for ``reader`` and leave it as it is for all other readers."""
        return self._ask("produce", value, factor, reader)

    def cancel(self, value: int, factor: float) -> list[Fold] | None:
        """Folds that keep all outputs as they are although ``value`` is ``factor`` times as large."""
        return self._ask("cancel", value, factor, None)

    def _produce(self, value: int, factor: float, reader: int | None) -> list[Fold] | None:
        others = [n for n in self.forward.readers[value] if n != reader]
        if (name := self.forward.parameters.get(value)) is not None:
            if self.calls and reader is not None and all(self._same_place(n, reader) for n in others):
                self.shared.setdefault(name, set()).add(reader)
                return [Fold(name, factor)]
            relief = self._all([self._cancel_at(n, value, factor) for n in others])
            return None if relief is None else [Fold(name, factor), *relief]
        if others or value not in self.forward.makers:
            return None
        number = self.forward.makers[value]
        step = self.forward.steps[number]
        kind = step.operation.removesuffix("_")
        if kind in ("aten.add", "aten.sub") and (centred := self._zero_centred(step, number, factor)) is not None:
            return centred
        if value != step.outputs[0]:
            return None
        if kind in _PASS and kind not in _PARTS and factor > 0:
            return self.produce(step.inputs[0], factor, number) if 0 in step.inputs else None
        if kind == "aten.cat" or kind in ("aten.add", "aten.sub"):
            if len(step.inputs) < 2:
                return None
            return self._all([self.produce(part, factor, number) for part in step.inputs.values()])
        if kind == "aten.div":
            return self.produce(step.inputs[0], factor, number) if 0 in step.inputs else None
        if kind == "aten.mul" and step.numbers and 0 in step.inputs:
            return self.produce(step.inputs[0], factor, number)
        return self._produce_product(kind, step, number, factor)

    def _same_place(self, number: int, other: int) -> bool:
        """Whether two steps are the same operation of the same module."""
        if number < 0 or other < 0:
            return False
        first, second = self.forward.steps[number], self.forward.steps[other]
        return (first.module, first.operation) == (second.module, second.operation)

    def _produce_product(self, kind: str, step: Step, number: int, factor: float) -> list[Fold] | None:
        places: Sequence[int] = _PRODUCTS.get(kind, ())
        added: list[Fold] | None = []
        if kind in _WITH_BIAS:
            bias, places = _WITH_BIAS[kind]
            added = self.produce(step.inputs[bias], factor, number) if bias in step.inputs else []
        folds = self.first([(step.inputs[p], factor) for p in places if p in step.inputs], number)
        return None if folds is None or added is None else [*folds, *added]

    def first(self, wanted: list[tuple[int, float]], number: int) -> list[Fold] | None:
        """Folds for the first value that can be scaled; parameters are tried before other values."""
        for value, factor in sorted(wanted, key=lambda pair: not self._is_weight(pair[0])):
            if (folds := self.produce(value, factor, number)) is not None:
                return folds
        return None

    def _is_weight(self, value: int) -> bool:
        while value not in self.forward.parameters and value in self.forward.makers:
            step = self.forward.steps[self.forward.makers[value]]
            if step.operation not in _PASS or 0 not in step.inputs:
                return False
            value = step.inputs[0]
        return value in self.forward.parameters

    def _zero_centred(self, step: Step, number: int, factor: float) -> list[Fold] | None:
        """Fold for a norm that stores its weight minus one: ``1 + weight`` is scaled by ``factor``."""
        offsets = list(step.numbers.values())
        if len(step.inputs) != 1 or len(offsets) != 1 or step.operation != "aten.add":
            return None
        value, passed = next(iter(step.inputs.values())), number
        while value not in self.forward.parameters:
            if self.forward.readers[value] != [passed] or value not in self.forward.makers:
                return None
            passed = self.forward.makers[value]
            before = self.forward.steps[passed]
            if before.operation != "aten._to_copy" or 0 not in before.inputs:
                return None
            value = before.inputs[0]
        if self.forward.readers[value] != [passed]:
            return None
        return [Fold(self.forward.parameters[value], factor, offsets[0])]

    def _cancel(self, value: int, factor: float) -> list[Fold] | None:
        return self._all([self._cancel_at(number, value, factor) for number in self.forward.readers[value]])

    def _cancel_at(self, number: int, value: int, factor: float) -> list[Fold] | None:
        if number < 0:
            return None  # the model's output
        step = self.forward.steps[number]
        kind = step.operation.removesuffix("_")
        places = [place for place, other in step.inputs.items() if other == value]
        if kind in _PASS and places == [0] and factor > 0:
            return self.cancel(step.outputs[0], factor)
        if len(places) != 1:
            return None
        partners: list[tuple[int, float]] = []
        if kind in _PRODUCTS and places[0] in _PRODUCTS[kind]:
            partners = [(step.inputs[p], 1 / factor) for p in _PRODUCTS[kind] if p != places[0] and p in step.inputs]
        elif kind in _WITH_BIAS and places[0] in _WITH_BIAS[kind][1]:
            partners = [
                (step.inputs[p], 1 / factor) for p in _WITH_BIAS[kind][1] if p != places[0] and p in step.inputs
            ]
        elif kind == "aten.div" and places[0] in (0, 1):
            partners = [(step.inputs[1 - places[0]], factor)] if 1 - places[0] in step.inputs else []
        elif kind in ("aten.sqrt", "aten.rsqrt") and factor > 0:
            return self.cancel(step.outputs[0], factor ** (0.5 if kind == "aten.sqrt" else -0.5))
        else:
            return None
        folds = self.first(partners, number)
        if folds is not None or kind in _WITH_BIAS or not step.outputs:
            return folds
        becomes = 1 / factor if kind == "aten.div" and places[0] == 1 else factor
        return self.cancel(step.outputs[0], becomes)

    @staticmethod
    def _all(parts: Sequence[list[Fold] | None]) -> list[Fold] | None:
        folds: list[Fold] = []
        for part in parts:
            if part is None:
                return None
            folds += part
        return folds
