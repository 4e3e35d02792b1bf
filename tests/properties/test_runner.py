"""A property that does not hold is found, shrunk, saved, replayed and counted."""

import json

import pytest
from property_runs import PropertyLog, markdown, run_properties

from moeverify.suites.properties import NotApplicable, PropertyFailed, check_property
from moeverify.suites.properties.failure import Failure
from synthetic_models import Spec


@pytest.mark.slow  # four examples of the everyday suite need not hold a bias
def test_the_smallest_falsifying_spec_is_saved_and_shown(tmp_path):
    log = PropertyLog()
    with pytest.raises(AssertionError, match="an expert with a bias") as caught:
        run_properties(["termination"], "broken_pruners:fails_on_biases", 1, log, tmp_path)
    (path,) = tmp_path.iterdir()
    saved = Failure.from_dict(json.loads(path.read_text()))
    assert saved.spec == Spec(bias=True)
    assert saved.script() in str(caught.value)
    assert f"moeverify replay {path}" in str(caught.value)
    assert saved.still() == saved.message
    (row,) = log.rows()
    assert row["examples"] > 1
    assert "an expert with a bias" in row["failure"]
    assert any("falsified" in line for line in log.lines())


def test_a_script_fails_in_the_same_way():
    failure = Failure("termination", Spec(bias=True), "broken_pruners:fails_on_biases")
    assert len(failure.script().splitlines()) == 5
    with pytest.raises(PropertyFailed, match="an expert with a bias"):
        exec(failure.script(), {})


@pytest.mark.parametrize(
    ("name", "pruner", "says"),
    [
        ("termination", "never_ends", "did not finish within 1 s"),
        ("masked-equivalence", "alters_a_weight", "lm_head.weight is not a part of the original"),
        ("determinism", "draws_at_random", "tensors differ"),
        ("expert-permutation", "confuses_experts", "tensors differ"),
        ("shapes", "fails_on_biases", "step 1 removed nothing"),
    ],
)
def test_each_property_can_fail(name, pruner, says):
    with pytest.raises(PropertyFailed, match=says):
        check_property(name, Spec(), subject=f"broken_pruners:{pruner}", seconds=1 if pruner == "never_ends" else 60)


def test_properties_of_our_own_groups_do_not_apply_to_others():
    with pytest.raises(NotApplicable):
        check_property("order", Spec(), subject="torch-pruning")


def test_logs_of_several_processes_are_merged(tmp_path):
    first, second = PropertyLog(), PropertyLog()
    for log in (first, second):
        run_properties(["termination"], "broken_pruners:does_nothing", 0, log, tmp_path, injected=False)
    merged = PropertyLog()
    merged.merge(json.loads(json.dumps(first.data())))
    merged.merge(second.data())
    assert merged.rows()[0]["examples"] == first.rows()[0]["examples"] + second.rows()[0]["examples"]
    document = merged.document("ci")
    assert document["coverage"]["specs"] == merged.rows()[0]["examples"]
    page = markdown(document)
    assert f"| termination | broken_pruners:does_nothing | {document['examples']} |" in page
    assert "Never drawn: cycle=ring." in page
