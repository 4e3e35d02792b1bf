"""Documents that are read back: each hostile form of each kind is one line, never an accident of the reader."""

import json
import os
import threading

import pytest

from moeverify.base.documents import DocumentLimits, parse_document, read_document, read_text
from moeverify.errors import FileError, MoEVerifyError
from moeverify.evaluation.scores import Evaluation
from moeverify.models.roles_file import load_roles
from moeverify.models.sources import load_source
from moeverify.models.stored import INDEX, read_configuration, read_stored
from moeverify.pruning.checkpoint.plan_file import PlanDocument
from moeverify.pruning.experts.statistics import ExpertStatistics
from moeverify.report.comparison import read_result
from moeverify.report.result import VerificationResult
from moeverify.suites.baseline import read_baseline
from moeverify.suites.replay import replay
from moeverify.verdict import Status, Verdict
from moeverify.verification.journal import NAME, read_journal

SETTINGS = {"sources": ["m"], "seed": 0}


def read_as_journal(path):
    folder = path.parent / "run"
    folder.mkdir()
    path.rename(folder / NAME)
    return read_journal(folder, SETTINGS)


def as_index(path):
    path.rename(path.parent / INDEX)
    return path.parent


READERS = {
    "configuration": lambda path: read_configuration(path, path.name),
    "plan": PlanDocument.read,
    "report": read_result,
    "replay": lambda path: list(replay(path)),
    "baseline": read_baseline,
    "evaluation": Evaluation.read,
    "roles": load_roles,
    "statistics": ExpertStatistics.read,
    "index": lambda path: read_stored(as_index(path)),
    "specification": lambda path: load_source(f"synthetic:{path}"),
}
FORMS = {
    "empty": b"",
    "list": b"[]",
    "null": b"null",
    "number": b"5",
    "text": b'"x"',
    "deep_list": b"[" * 100_000 + b"]" * 100_000,
    "deep_object": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "long_number": b'{"a": ' + b"9" * 5_000 + b"}",
    "huge_float": b'{"a": 1e999}',
    "key_twice": b'{"model_type": "mixtral", "model_type": "dbrx"}',
    "not_utf8": b'{"a": "\xff\xfe"}',
    "cut_short": b'{"a": [1, 2',
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", READERS)
def test_no_form_surprises_a_reader(kind, form, tmp_path):
    path = tmp_path / ("document.toml" if kind == "roles" else "document.json")
    path.write_bytes(FORMS[form])
    with pytest.raises(MoEVerifyError) as caught:
        READERS[kind](path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("kind", READERS)
def test_a_pipe_is_refused_at_once(kind, tmp_path):
    path = tmp_path / "document.json"
    os.mkfifo(path)
    with pytest.raises(MoEVerifyError, match=r"pipe|no such file|cannot read"):
        READERS[kind](path)


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/full", "/dev/null"])
def test_a_link_to_a_device_is_refused(target, tmp_path):
    (tmp_path / "config.json").symlink_to(target)
    with pytest.raises(MoEVerifyError, match="regular file"):
        read_configuration(tmp_path, "m")


def test_a_file_above_the_limit_is_not_read(tmp_path):
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a terabyte that takes no space
    with pytest.raises(FileError, match="larger than 16 MiB"):
        read_text(path)


def test_a_file_that_grows_while_it_is_read_is_bounded(tmp_path):
    path = tmp_path / "grows.json"
    path.write_text("[" + "1," * 100)
    stop = threading.Event()

    def grow():
        with path.open("a") as file:
            while not stop.is_set():
                file.write("1," * 1000)

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        with pytest.raises(FileError):
            read_document(path, limits=DocumentLimits(size=1 << 20))
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NaN", "NaN stands"),
        ("-Infinity", "Infinity stands"),
        ('{"a": 1.0}', "is not a document, at a"),
        ('{"a": true}', "is not a document, at a"),
        (json.dumps({"a": 1, "b": [[]] * 3}), "more than 5 items"),
    ],
)
def test_numbers_and_numbers_of_items(text, message):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    with pytest.raises(FileError, match=message):
        parse_document(text, schema, DocumentLimits(items=5))


@pytest.mark.parametrize("text", ["a = " + "[" * 5_000, "a = " + "9" * 5_000, "[roles]\nexperts = nan", "a = {b = 1"])
def test_hostile_toml_is_refused_in_one_line(text, tmp_path):
    path = tmp_path / "roles.toml"
    path.write_text(text)
    with pytest.raises(MoEVerifyError) as caught:
        load_roles(path)
    assert "\n" not in str(caught.value)


VERDICT = {
    "source": "m",
    "subject": "moe",
    "check": "shapes",
    "status": "pass",
    "message": "well",
    "evidence": {},
    "reproduce": "",
    "seconds": 0.0,
}
HEADER = {"settings": SETTINGS, "created": "now"}
JOURNALS = {
    "verdict_is_a_list": [HEADER, {"case": "m", "verdict": []}],
    "verdict_of_another_model": [HEADER, {"case": "other", "verdict": VERDICT}],
    "case_is_a_number": [HEADER, {"case": 5, "verdict": VERDICT}],
    "unknown_status": [HEADER, {"case": "m", "verdict": {**VERDICT, "status": "splendid"}}],
    "further_key": [HEADER, {"case": "m", "verdict": {**VERDICT, "weight": 9}}],
    "missing_key": [HEADER, {"case": "m", "verdict": {k: v for k, v in VERDICT.items() if k != "message"}}],
    "seconds_are_text": [HEADER, {"case": "m", "verdict": {**VERDICT, "seconds": "long"}}],
    "negative_seconds": [HEADER, {"case": "m", "verdict": {**VERDICT, "seconds": -1}}],
    "evidence_is_text": [HEADER, {"case": "m", "verdict": {**VERDICT, "evidence": "none"}}],
    "facts_are_a_list": [HEADER, {"finished": "m", "facts": []}],
    "facts_without_source": [HEADER, {"finished": "m", "facts": {"facts": {}}}],
    "finished_without_facts": [HEADER, {"finished": "m"}],
    "line_of_two_kinds": [HEADER, {"case": "m", "verdict": VERDICT, "finished": "m", "facts": None}],
    "unknown_line": [HEADER, {"weather": "fine"}],
    "line_is_a_number": [HEADER, 5],
    "line_is_a_list": [HEADER, []],
    "two_headers": [HEADER, HEADER],
    "header_without_created": [{"settings": SETTINGS}],
    "settings_are_a_list": [{"settings": [], "created": "now"}],
    "no_header": [{"case": "m", "verdict": VERDICT}],
}


@pytest.mark.parametrize("form", JOURNALS)
def test_an_edited_journal_is_refused(form, tmp_path):
    path = tmp_path / "journal"
    path.write_text("".join(json.dumps(line) + "\n" for line in JOURNALS[form]))
    with pytest.raises(MoEVerifyError) as caught:
        read_as_journal(path)
    assert "\n" not in str(caught.value)


def report_of(tmp_path, **settings):
    verdict = Verdict("zoo:mixtral", "moe", "shapes", Status.FAIL, "wrong", {}, "moeverify verify zoo:mixtral")
    result = VerificationResult((verdict,), (), {"sources": ["zoo:mixtral"], **settings}, {}, "now", 1.0)
    return result.write_json(tmp_path / "report.json")


@pytest.mark.parametrize(
    "settings",
    [
        {"trust_remote_code": True},
        {"roles": ["experts"]},
        {"dtype": ["float32"]},
        {"dtype": "complex"},
        {"seed": "x"},
        {"pruning_ratio": "half"},
    ],
    ids=str,
)
def test_settings_of_a_report_that_cannot_be_replayed(settings, tmp_path):
    with pytest.raises(MoEVerifyError) as caught:
        list(replay(report_of(tmp_path, **settings)))
    assert str(caught.value).isprintable()


def test_a_journal_that_a_kill_cut_short_is_read(tmp_path):
    path = tmp_path / "journal"
    line = json.dumps({"case": "m", "verdict": VERDICT})
    path.write_text(f"{json.dumps(HEADER)}\n{line}\n{line[:-1]}\n\n{line[:40]}")
    assert [v.message for v in read_as_journal(path).verdicts["m"]] == ["well"]
