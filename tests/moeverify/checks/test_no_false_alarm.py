"""No check cries wolf: whatever synthetic model is drawn, the right pruner passes all of them."""

import functools

import pytest
from hypothesis import given, note, reject

import synthetic_models
from moeverify.case import Case, run_case
from moeverify.checks import default_names
from moeverify.sources import LoadedModel
from moeverify.subjects import prune_moe
from moeverify.verdict import PROBLEMS, Verdict
from synthetic_models.strategies import USUAL_FAMILIES, specs

# A fresh process for each example would take seconds; the faults' tests and the zoo's have it.
CHECKS = tuple(name for name in default_names() if name not in ("reload", "kernel-ready"))


@pytest.mark.slow
@given(spec=specs(families=USUAL_FAMILIES))
def test_every_check_passes_on_the_right_pruner(spec):
    loaded = LoadedModel("synthetic", synthetic_models.build(spec).eval(), synthetic_models.example_inputs(spec))
    case = Case("synthetic", seed=spec.seed, dtype=spec.dtype, checks=CHECKS)
    verdicts = []
    run_case(
        case,
        lambda e: isinstance(e, Verdict) and verdicts.append(e),
        loaded=loaded,
        subject=functools.partial(prune_moe, round_to=None),
    )
    problems = {v.check: v.message for v in verdicts if v.status in PROBLEMS}
    if "refused" in problems.get("terminates", ""):
        reject()  # an architecture whose configuration cannot express a pruned size
    note(str(spec))
    assert problems == {}
