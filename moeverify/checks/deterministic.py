"""``deterministic``"""

from __future__ import annotations

import copy

import numpy as np
import torch

from moeverify.base.foreign import left_by
from moeverify.checks.context import Context
from moeverify.checks.evidence.kept import tensors_of
from moeverify.checks.evidence.locate import bits
from moeverify.checks.registry import Finding, check, failed, inconclusive, passed, skipped
from moeverify.subjects import Pruned
from moeverify.verdict import Status


@check("deterministic")
def deterministic(context: Context) -> Finding:
    """Proves that the subject gives the same tensors bit for bit, given an equal model, equal inputs and the same seed
    once more. Nothing depends on a counter, on the random state it finds, or on addresses in memory.

    The second run is in the same process. An order that Python's hash seed decides per process is not seen, nor are
    other machines. Does not prove that other seeds give other results.

    Where the original's own forward does not repeat, from equal state and equal random numbers, the verdict is
    inconclusive and names that. No check can compare such a model, and the subject may have scored its channels by it.
    """
    finding = _pruned_again(context)
    if not context.behaviour.unsteady:
        return finding
    again = {Status.PASS: "the subject's tensors are the same the second time", Status.SKIP: finding.message}
    return inconclusive(
        f"the original's own {context.behaviour.unsteady} differs between two forwards from equal state and equal "
        f"random numbers; make the forward repeatable ({again.get(finding.status, finding.message)})",
        **finding.evidence,
    )


def _pruned_again(context: Context) -> Finding:
    """Whether the subject gives equal tensors a second time."""
    if context.subject is None:
        return skipped("the subject cannot be called once more")
    again = copy.deepcopy(context.original)
    # Whatever the subject leaves to the global random state must not matter.
    state = torch.random.get_rng_state()
    torch.manual_seed(context.seed + 987_654_321)
    try:
        answer = context.subject(again, context.example_inputs, pruning_ratio=context.pruning_ratio, seed=context.seed)
        again = answer.result(again) if isinstance(answer, Pruned) else again
    except Exception as error:
        return failed(f"the second time the subject crashed: {left_by(error)}")
    finally:
        torch.random.set_rng_state(state)
    first, second = tensors_of(context.pruned), tensors_of(again)
    if first.keys() != second.keys():
        names = sorted(first.keys() ^ second.keys())
        return failed(f"{names[0]} is there after one of two equal runs only", tensors=names[:50])
    for name, one in first.items():
        two = second[name]
        if one.shape != two.shape:
            return failed(
                f"{name} has shape {list(one.shape)} after one run and {list(two.shape)} after an equal one",
                parameter=name,
                first=tuple(one.shape),
                second=tuple(two.shape),
            )
        if not np.array_equal(bits(one), bits(two)):
            where = tuple(int(i) for i in np.argwhere(bits(one) != bits(two))[0])
            return failed(
                f"{name} differs between two equal runs, first at {list(where)}", parameter=name, position=where
            )
    return passed(f"{len(first)} tensors are the same bit for bit the second time")
