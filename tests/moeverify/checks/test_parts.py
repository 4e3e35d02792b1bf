"""What ``coupling-minimal`` may not try alone, and what it still must."""

from dataclasses import replace

import numpy as np
import pytest

from moeverify.coupling.solving.solve import CouplingClass, Member
from moeverify.subjects import BUILT_IN
from moeverify.verdict import Status
from moeverify.verification.case import Case
from moeverify.verification.events import VerdictReached
from moeverify.verification.in_process import run_case


def run(source, subject=None):
    verdicts = []
    case = Case(source, "here" if subject else "moe", checks=("coupling-minimal",), pruning_ratio=0.5)
    run_case(case, lambda e: isinstance(e, VerdictReached) and verdicts.append(e.verdict), subject=subject)
    return next(v for v in verdicts if v.check == "coupling-minimal")


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    [
        "zoo:gpt_oss",  # all layers read one rotary table, so a pair of head dimensions goes from all of them
        "zoo:axk2",  # an indexer reads the query's latent channels; it only chooses positions and has no gradient
    ],
)
def test_parts_that_cannot_go_alone_raise_no_alarm(source):
    verdict = run(source)
    assert verdict.status is Status.PASS, verdict.message


@pytest.mark.slow
def test_a_group_that_borrows_the_rotary_table_is_still_several():
    """Experts of two layers in one group, with a buffer that neither reads: no excuse."""

    def merges(model, example_inputs, *, pruning_ratio, seed):
        outcome = BUILT_IN["moe"](model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
        groups = list(outcome.classes)
        first, second = [c for c in groups if c.role == "routed_experts"][:2]
        rows = np.resize(np.arange(12), (first.coupling.size, 1))
        rotary = Member("model.rotary_emb.inv_freq", 0, rows, True)
        members = (*first.coupling.members, *second.coupling.members, rotary)
        merged = replace(first, coupling=CouplingClass(members), where="two layers", experts=0)
        return replace(outcome, classes=(merged, *(c for c in groups if c not in (first, second))))

    verdict = run("zoo:gpt_oss", merges)
    assert verdict.status is Status.FAIL
    assert "two layers could be split" in verdict.message
