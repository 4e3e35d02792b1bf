"""``verify``: what it accepts, what it refuses, and what it writes."""

import copy
import json
import sys

import hostile_subjects
import jsonschema
import pytest
import torch
from stand_ins import crashes, two_layers, unusual_names
from torch import nn

import moeverify as mv
from moeverify.checks.selection import select_checks
from moeverify.errors import SourceError, UsageError
from moeverify.report.result import VerificationResult, schema
from moeverify.verdict import Status

FAST = ("terminates", "something-pruned", "shapes")


def test_a_model_and_a_function_are_verified_in_this_process(tmp_path):
    model, inputs = two_layers()
    result = mv.verify(model, example_inputs=inputs, report=tmp_path)
    assert result.ok
    assert result.exit_code == 0
    assert model.a.weight.shape == (8, 8)
    document = json.loads((tmp_path / "report.json").read_text("utf-8"))
    jsonschema.validate(document, schema())
    assert {"source", "subject", "check", "status", "message", "evidence", "reproduce"} <= set(document["verdicts"][0])
    assert VerificationResult.from_json(result.to_json()) == VerificationResult.from_json(json.dumps(document))
    assert {p.name for p in tmp_path.iterdir()} == {"report.json", "report.html", "junit.xml"}
    assert any("no MoE layer" in note for note in document["cases"][0]["facts"]["notes"])


def test_a_broken_subject_is_a_failed_result():
    model, inputs = two_layers()
    result = mv.verify(model, example_inputs=inputs, subject=crashes, checks=FAST)
    assert not result.ok
    assert result.exit_code == 1
    assert result.summary == {"pass": 0, "fail": 0, "error": 1, "timeout": 0, "skip": 2, "inconclusive": 0}


def test_expected_failures_turn_round():
    model, inputs = two_layers()
    result = mv.verify(model, example_inputs=inputs, subject=crashes, checks=FAST, expect_fail=["terminates"])
    assert result.verdicts[0].status is Status.PASS
    assert result.verdicts[0].message.startswith("error, as expected:")
    result = mv.verify("stand_ins:two_layers", checks=FAST, expect_fail=["shapes"])
    (failed,) = [v for v in result.verdicts if v.status is Status.FAIL]
    assert failed.check == "shapes"
    assert failed.reproduce.endswith(" --expect-fail shapes")


def test_one_source_that_cannot_be_loaded_spares_the_others():
    result = mv.verify(["stand_ins:raises", "stand_ins:two_layers"], checks=FAST)
    assert [(v.source, v.check, v.status) for v in result.verdicts if v.status is not Status.PASS] == [
        ("stand_ins:raises", "load", Status.ERROR)
    ]
    assert result.exit_code == 2
    with pytest.raises(SourceError, match="returned a str"):
        mv.verify("stand_ins:not_a_model", checks=FAST)


def test_a_model_without_values_is_refused_in_words():
    with pytest.raises(SourceError, match=r"weight lies on the meta device and has no values.*moeverify inspect"):
        mv.verify("stand_ins:without_weights", checks=FAST)
    with torch.device("meta"):
        model = nn.Linear(8, 4)
    with pytest.raises(SourceError, match="lies on the meta device"):
        mv.verify(model, example_inputs=torch.randn(5, 8), checks=FAST)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pruning_ratio": 1.0}, "strictly between 0 and 1"),
        ({"dtype": "float7"}, "unknown dtype"),
        ({"checks": ["no-such"]}, "unknown check 'no-such'"),
        ({"expect_fail": ["no-such"]}, "unknown check 'no-such'"),
        ({"subject": "no-such"}, "unknown subject"),
        ({"resume": True}, "resume needs the report folder"),
    ],
)
def test_wrong_calls_are_refused_before_anything_runs(arguments, message):
    with pytest.raises(UsageError, match=message):
        mv.verify("stand_ins:two_layers", **arguments)


def test_a_function_is_no_source_and_says_how_to_name_it():
    def make():
        """A factory that nobody calls."""

    with pytest.raises(UsageError, match="name the function as module:function"):
        mv.verify(make)


def test_checks_keep_the_order_of_the_report():
    assert select_checks(["shapes", "terminates"]) == ("terminates", "shapes")
    assert "reload" not in select_checks(None, ["reload"])
    with pytest.raises(UsageError, match="leave at least one"):
        select_checks(["shapes"], ["shapes"])


UNUSUAL = mv.Roles(experts=r"^blades$", routers=r"^chooser$", shared_experts=r"^common$")


def test_roles_reach_the_pruner_and_every_check(tmp_path):
    result = mv.verify("stand_ins:unusual_names", roles=UNUSUAL, report=tmp_path)
    assert result.ok, [v.message for v in result.verdicts if v.status is Status.FAIL]
    router = next(v for v in result.verdicts if v.check == "router-intact")
    assert router.status is Status.PASS
    assert "--experts-pattern '^blades$' --routers-pattern '^chooser$'" in router.reproduce
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["settings"]["roles"]["experts"] == "^blades$"
    assert result.cases[0].facts["roles"]["shared_experts"] == ["model.layers.0.mixture.common"]


def test_rules_that_are_functions_work_where_the_model_is(tmp_path):
    def experts(path, module):
        return path.endswith("blades")

    model, inputs = unusual_names()
    roles = mv.Roles(experts, UNUSUAL.routers, UNUSUAL.shared_experts)
    assert mv.verify(model, example_inputs=inputs, roles=roles).ok
    with pytest.raises(UsageError, match="experts is a function"):
        mv.verify("stand_ins:unusual_names", roles=roles)


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        (hostile_subjects.exits, "the subject left by SystemExit(0)"),
        (hostile_subjects.leaves_at_once, "the subject left by os._exit(0)"),
        (hostile_subjects.interrupts, "the subject left by KeyboardInterrupt()"),
        (hostile_subjects.says_nothing, "the subject crashed (ValueError): no message"),
    ],
)
def test_a_function_that_leaves_is_an_error_in_this_process_too(subject, message):
    model, inputs = two_layers()
    result = mv.verify(model, example_inputs=inputs, subject=subject, checks=FAST)
    assert (result.verdicts[0].status, result.exit_code) == (Status.ERROR, 1)
    assert message in result.verdicts[0].message


def test_a_check_on_a_model_that_leaves_is_an_error():
    class Leaves(type(two_layers()[0])):
        def forward(self, x):
            if self.a.weight.shape[0] < 16:
                sys.exit(0)
            return super().forward(x)

    def halve(model, example_inputs, *, pruning_ratio, seed):
        a, b = model.a, model.b
        a.weight, a.bias = torch.nn.Parameter(a.weight[:8].detach()), torch.nn.Parameter(a.bias[:8].detach())
        b.weight = torch.nn.Parameter(b.weight[:, :8].detach())

    _, inputs = two_layers()
    result = mv.verify(Leaves(), example_inputs=inputs, subject=halve, checks=["terminates", "masked-equivalence"])
    assert not result.ok
    assert any("SystemExit(0)" in v.message or "SystemExit(0)" in str(v.evidence) for v in result.verdicts)


def test_a_model_that_is_returned_is_judged():
    def elsewhere(model, example_inputs, *, pruning_ratio, seed):
        pruned = copy.deepcopy(model)
        pruned.a, pruned.b = torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)
        return pruned

    model, inputs = two_layers()
    result = mv.verify(model, example_inputs=inputs, subject=elsewhere, checks=["something-pruned"])
    assert result.ok, result.verdicts


def test_ratios_reach_our_subject_and_the_report(tmp_path):
    result = mv.verify(
        "synthetic:listed", ratios={"hidden": 0, "heads": 0}, round_to=2, checks=["ratio-honoured"], report=tmp_path
    )
    assert result.ok, [v.message for v in result.verdicts]
    document = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert document["settings"]["ratios"] == {"hidden": 0.0, "heads": 0.0}
    assert "--ratio hidden=0.0 --ratio heads=0.0 --round-to 2" in document["verdicts"][0]["reproduce"]


def test_what_no_command_can_name_has_the_line_that_was_given():
    model, inputs = two_layers()
    result = mv.verify(model, example_inputs=inputs, checks=FAST, reproduce="pytest test_mine.py::test_it")
    assert {v.reproduce for v in result.verdicts} == {"pytest test_mine.py::test_it"}
