"""The loop that plans, finds what hangs on the plan and drops classes, for any judge."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from moeverify.coupling.classify import PruningClass
from moeverify.coupling.solving.solve import CouplingClass, Member
from moeverify.errors import PruningRefused
from moeverify.pruning.constants.derived import DoesNotRun
from moeverify.pruning.plan.plan import Adjustment, Plan, Reason
from moeverify.pruning.step.leave_out import FOLLOWS
from moeverify.pruning.step.settle import Judgement, settle

TOGETHER, DERIVED, ALONE = (
    Reason("they do not fit", "model.py:7"),
    Reason("a scale is derived from it"),
    Reason("alone"),
)


def a_class(name, size=8):
    member = Member(f"{name}.weight", 0, np.arange(size).reshape(size, 1))
    return PruningClass(CouplingClass((member,)), "other", name)


@dataclass
class Stub:
    """A judge with rules by the names of classes; ``seen`` records what it was asked."""

    apart: tuple[str, str] | None = None
    blocking: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    adjusts: str = ""
    share: dict = field(default_factory=dict)
    seen: list = field(default_factory=list)

    def kind_of(self, pruning_class):
        return pruning_class.where

    def unfit(self, counts):
        return {c: ALONE for c in counts if c.where in self.never}

    def shared(self, counts, fails, named):
        return {c: kept for c in counts if (kept := self.share.get(c.where, counts[c])) != counts[c]} or None

    def judge(self, counts):
        names = {c.where: kept for c, kept in counts.items()}
        self.seen.append(names)
        if self.apart and set(self.apart) <= names.keys() and names[self.apart[0]] != names[self.apart[1]]:
            return Judgement(refused=DoesNotRun(TOGETHER))
        if found := {c: DERIVED for c in counts if c.where in self.blocking}:
            return Judgement(blocking=lambda: found)
        told = tuple(
            Adjustment(c, kept, 6, Reason("a multiple")) for c, kept in counts.items() if c.where == self.adjusts
        )
        return Judgement(Plan((), {}, told, entries={(name,): kept for name, kept in names.items()}))


def settled(judge, named=(), **counts):
    classes = {name: a_class(name, 16 if name == "big" else 8) for name in counts}
    plan = settle(judge, {classes[n]: k for n, k in counts.items()}, frozenset(classes[n] for n in named)).plan
    return {name: kept for (name,), kept in plan.entries.items()}, {a.pruning_class.where: a for a in plan.adjustments}


def test_what_can_go_goes_at_once():
    judge = Stub()
    assert settled(judge, a=4, b=4) == ({"a": 4, "b": 4}, {})
    assert judge.seen == [{"a": 4, "b": 4}]


def test_what_hangs_on_a_plan_is_dropped_and_the_rest_planned_again():
    kept, left = settled(Stub(blocking=("a",)), a=4, b=4)
    assert kept == {"b": 4}
    assert (left["a"].kept, left["a"].wanted, left["a"].reason) == (8, 4, DERIVED)


def test_a_class_that_never_can_is_dropped_before_anything_is_judged():
    judge = Stub(never=("a",))
    assert settled(judge, a=4, b=4)[0] == {"b": 4}
    assert judge.seen == [{"b": 4}]


def test_of_classes_that_cannot_go_together_the_larger_one_goes():
    kept, left = settled(Stub(apart=("big", "small")), small=4, big=8, other=4)
    assert kept == {"big": 8, "other": 4}
    assert left["small"].reason == TOGETHER


def test_other_counts_with_which_all_go_come_before_leaving_one_out():
    kept, left = settled(Stub(apart=("a", "b"), share={"b": 4}), a=4, b=6)
    assert kept == {"a": 4, "b": 4}
    assert (left["b"].wanted, left["b"].kept) == (6, 4)
    assert left["b"].reason == Reason(f"{FOLLOWS} they do not fit", "model.py:7")


def test_the_same_counts_are_judged_once():
    judge = Stub(apart=("a", "b"), blocking=("c",))
    settled(judge, a=4, b=6, c=4)
    assert len(judge.seen) == len({tuple(sorted(names.items())) for names in judge.seen})


@pytest.mark.parametrize(
    ("judge", "why"),
    [
        (Stub(blocking=("a",)), "a scale is derived from it"),
        (Stub(never=("a",)), "alone"),
        (Stub(adjusts="a"), "a multiple"),
        (Stub(apart=("a", "b")), "they do not fit, at model.py:7"),
    ],
    ids=["blocking", "unfit", "adjusted", "apart"],
)
def test_what_was_asked_for_by_name_is_refused_instead_of_left_out(judge, why):
    settled(judge, a=4, b=6)
    with pytest.raises(PruningRefused, match=why):
        settled(judge, named=("a", "b"), a=4, b=6)


class Refuses(Stub):
    def judge(self, counts):
        return Judgement(refused=PruningRefused("not even nothing"))


def test_a_model_on_which_nothing_can_be_carried_out_is_refused():
    with pytest.raises(PruningRefused, match="not even nothing"):
        settled(Refuses(), a=4)
