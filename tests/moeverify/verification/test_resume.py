"""A run that was killed goes on where it was."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moeverify.errors import UsageError
from moeverify.verification.journal import NAME, read_journal

SOURCES = ["stand_ins:two_layers", "zoo:mixtral"]
# The nightly profile kills twenty times, the everyday one once.
ATTEMPTS = 20 if os.environ.get("MOEVERIFY_HYPOTHESIS_PROFILE") == "nightly" else 1
CHECKS = "terminates,something-pruned,expert-isolation,shapes,ratio-honoured"


def command(folder, *more):
    words = [sys.executable, "-m", "moeverify", "verify", *SOURCES, "--subject", "stand_ins:slow"]
    return [*words, "--checks", CHECKS, "--workers", "1", "--report", str(folder), *more]


def environment():
    here = str(Path(__file__).parents[2] / "support")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([here, *filter(None, sys.path)])}


def comparable(folder):
    document = json.loads((folder / "report.json").read_text("utf-8"))
    facts = {c["source"]: {k: v for k, v in c["facts"].items() if k != "seconds"} for c in document["cases"]}
    verdicts = [{k: v for k, v in verdict.items() if k != "seconds"} for verdict in document["verdicts"]]
    return verdicts, facts, document["settings"]


def killed_run(folder, seconds):
    """Start a run and end it, with all its processes' parent, by SIGKILL after ``seconds``."""
    process = subprocess.Popen(command(folder), env=environment(), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()


def check_resumed(folder, expected):
    if not (folder / "report.json").exists():
        begun = (folder / NAME).exists()  # killed before that, there is nothing to go on with
        before = read_journal(folder, expected[2]).verdicts if begun else {}
        words = command(folder, "--resume") if begun else command(folder)
        done = subprocess.run(words, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        kept = {(v["source"], v["check"]): v for v in json.loads((folder / "report.json").read_text())["verdicts"]}
        for source, verdicts in before.items():
            for verdict in verdicts:
                assert kept[source, verdict.check] == verdict.to_dict()
    assert comparable(folder) == expected
    assert sorted(p.name for p in folder.iterdir()) == ["junit.xml", "report.html", "report.json"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    begin = time.monotonic()
    subprocess.run(command(folder), env=environment(), check=True, capture_output=True)
    return comparable(folder), time.monotonic() - begin


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(ATTEMPTS))
def test_killed_at_a_random_moment_resumed_to_the_same_report(attempt, uninterrupted, tmp_path):
    expected, seconds = uninterrupted
    killed_run(tmp_path, random.Random(attempt).uniform(0.3, 1.0) * seconds)
    check_resumed(tmp_path, expected)


def test_other_settings_are_refused(tmp_path):
    (tmp_path / NAME).write_text('{"settings": {"seed": 0}, "created": "now"}\n{"verdict": {"cut sh', "utf-8")
    assert read_journal(tmp_path, {"seed": 0}).created == "now"
    with pytest.raises(UsageError, match="other settings"):
        read_journal(tmp_path, {"seed": 1})


def limited():
    """Files above 9 kB cannot be written; the system's answer is like that of a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))


@pytest.mark.slow
def test_a_run_whose_report_finds_no_space_is_resumed_without_its_work(tmp_path):
    """The journal and what is handed over are small; the page of the report is not."""
    folder = tmp_path / "run"
    words = [sys.executable, "-m", "moeverify", "verify", "stand_ins:two_layers", "--subject", "stand_ins:slow"]
    words += ["--checks", "terminates,something-pruned", "--report", str(folder)]
    first = subprocess.run(words, env=environment(), capture_output=True, text=True, preexec_fn=limited)
    lines = [line for line in first.stderr.splitlines() if line.startswith("moeverify: ")]
    assert first.returncode == 2, (first.stdout, first.stderr)
    assert len(lines) == 1
    assert "report.html" in lines[0]
    journal = map(json.loads, filter(None, (folder / NAME).read_text("utf-8").splitlines()))
    judged = {entry["verdict"]["check"]: entry["verdict"] for entry in journal if "verdict" in entry}
    assert set(judged) == {"terminates", "something-pruned"}
    assert subprocess.run([*words, "--resume"], env=environment(), capture_output=True).returncode == 0
    report = json.loads((folder / "report.json").read_text("utf-8"))
    assert {v["check"]: v for v in report["verdicts"]} == judged  # to the second: nothing was done again
    assert not (folder / NAME).exists()
