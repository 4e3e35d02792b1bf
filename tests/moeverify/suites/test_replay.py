"""``moeverify replay``: FIXED, still failing, or one line about a file that is neither."""

import json

import broken_pruners
import pytest

import moeverify
from moeverify.cli import main
from moeverify.errors import UsageError
from moeverify.report.result import VerificationResult
from moeverify.suites.properties.failure import FORMAT, Failure
from moeverify.suites.replay import replay
from moeverify.verdict import Status, Verdict
from moeverify.verification.settings import Settings
from synthetic_models import Cycle, Spec

FAILURE = Failure("termination", Spec(bias=True), "broken_pruners:fails_on_biases", message="as it was")


def run(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(["replay", *map(str, words)])
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def test_a_saved_failure_reads_back_as_it_was(tmp_path):
    failure = Failure("truth", Spec(cycles=(Cycle("ring", 2),)), pruning_ratio=0.25, seed=3, message="text")
    data = json.loads(failure.save(tmp_path / "case.json").read_text())
    assert data["format"] == FORMAT
    assert data["versions"]["torch"]
    assert Failure.from_dict(data) == failure


def test_still_failing_then_fixed(tmp_path, capsys, monkeypatch):
    path = FAILURE.save(tmp_path / "case.json")
    code, out, _ = run(capsys, path)
    assert code == 1
    assert "still failing" in out
    assert "an expert with a bias" in out
    assert FAILURE.script() in out
    monkeypatch.setattr(broken_pruners, "fails_on_biases", lambda *args, **kwargs: None)
    code, out, _ = run(capsys, path)
    assert code == 0
    assert out.startswith("FIXED  termination of broken_pruners:fails_on_biases on Spec(bias=True)")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nonsense", "not valid JSON"),
        ("{}", "neither a saved failure"),
        ("[]", "neither a saved failure"),
        (json.dumps({"format": FORMAT}), "not a falsified property"),
        (json.dumps({"format": FORMAT, "property": "truth", "spec": {"hidden": "x"}}), "hidden must be"),
        (
            json.dumps({"format": FORMAT, "property": "truth", "spec": {}, "seed": "x"}),
            "not a falsified property, at seed",
        ),
        (json.dumps({"format": FORMAT, "property": "beauty", "spec": {}}), "unknown property 'beauty'"),
        (json.dumps({"format": FORMAT, "property": "truth", "spec": {}, "subject": "none"}), "unknown subject"),
        (json.dumps({"schema_version": 1}), "not a moeverify report"),
    ],
)
def test_other_files_get_one_line(tmp_path, capsys, text, says):
    (tmp_path / "file.json").write_text(text)
    code, out, err = run(capsys, tmp_path / "file.json")
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


def test_a_missing_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        list(replay(tmp_path / "none.json"))


@pytest.mark.slow
def test_failures_of_a_report(tmp_path):
    result = moeverify.verify(
        "synthetic:unequal", subject="broken_pruners:alters_a_weight", checks=["shapes", "untouched-identical"]
    )
    failed = [v for v in result.verdicts if v.status.value == "fail"]
    assert [v.check for v in failed] == ["untouched-identical"]
    (again,) = replay(result.write_json(tmp_path / "report.json"))
    assert again.now is not None
    assert "lm_head.weight" in again.now
    assert "moeverify verify" in again.script


def report_of(tmp_path, subject):
    """A report in which ``shapes`` failed on this subject."""
    failed = Verdict(
        "stand_ins:two_layers", subject, "shapes", Status.FAIL, "a shape is wrong", {}, "moeverify verify x"
    )
    settings = Settings(subject=subject).describe()
    result = VerificationResult((failed,), (), settings, {}, "now", 1.0)
    return result.write_json(tmp_path / "report.json")


@pytest.mark.parametrize(
    ("subject", "now"),
    [
        ("moe", None),
        ("stand_ins:crashes", "error: the subject crashed (ZeroDivisionError): by design"),
        ("hostile_subjects:leaves_at_once", "error: the subject left by os._exit(0)"),
        ("exits_on_import:prune", "error: cannot import exits_on_import:prune: left by SystemExit(0)"),
    ],
)
def test_fixed_means_that_the_subject_finished_and_the_check_passed(tmp_path, subject, now):
    (again,) = replay(report_of(tmp_path, subject))
    assert again.now is None if now is None else again.now.startswith(now)


def test_a_property_whose_subject_leaves_is_not_fixed(tmp_path, capsys):
    path = Failure("termination", Spec(), "hostile_subjects:exits").save(tmp_path / "case.json")
    code, out, _ = run(capsys, path)
    assert code == 1
    assert "the subject left by SystemExit(0)" in out
