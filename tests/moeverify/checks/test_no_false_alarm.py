"""No check cries wolf: whatever model is drawn, the right pruner passes all of them."""

import functools
import warnings

import pytest
from hypothesis import given, note, reject
from hypothesis import strategies as st
from kept_process import kept_process

import synthetic_models
from moeverify.case import Case, run_case
from moeverify.checks import default_names
from moeverify.properties.trial import Trial
from moeverify.sources import LoadedModel
from moeverify.subjects import prune_moe
from moeverify.verdict import PROBLEMS, Verdict
from synthetic_models.strategies import specs

RATIOS = (0.5, 0.25, 0.125, 0.75)


@pytest.fixture(scope="module", autouse=True)
def process(tmp_path_factory):
    with kept_process(tmp_path_factory.mktemp("kept")):
        yield


@pytest.mark.slow
@given(spec=specs(), ratio=st.sampled_from(RATIOS))
def test_every_check_passes_on_the_right_pruner(spec, ratio):
    loaded = LoadedModel("synthetic", synthetic_models.build(spec).eval(), synthetic_models.example_inputs(spec))
    case = Case("synthetic", pruning_ratio=ratio, seed=spec.seed, dtype=spec.dtype, checks=default_names())
    verdicts = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes left alone
        run_case(
            case,
            lambda e: isinstance(e, Verdict) and verdicts.append(e),
            loaded=loaded,
            subject=functools.partial(prune_moe, round_to=None, roles=Trial(spec).roles()),
        )
    problems = {v.check: v.message for v in verdicts if v.status in PROBLEMS}
    if "refused" in problems.get("terminates", ""):
        reject()  # an architecture whose configuration cannot express a pruned size
    note(str(spec))
    assert problems == {}
