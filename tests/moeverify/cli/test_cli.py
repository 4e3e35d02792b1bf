"""The command line as a user meets it."""

import os
import subprocess
import sys

import pytest

from moeverify.cli import main


def call(capfd, *words):
    with pytest.raises(SystemExit) as stop:
        main(words)
    out, err = capfd.readouterr()
    return stop.value.code, out, err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["verify", "no-such"], "no such source: 'no-such'"),
        (["verify", "zoo:mixtral", "--pruning-ratio", "1.5"], "strictly between 0 and 1"),
        (["verify", "zoo:mixtral", "--pruning_ratio", "0"], "strictly between 0 and 1"),
        (["verify", "zoo:mixtral", "--pruning-ratio", "half"], "--pruning-ratio"),
        (["verify", "zoo:mixtral", "--subject", "nobody"], "unknown subject 'nobody'"),
        (["verify", "zoo:mixtral", "--checks", "nothing"], "unknown check 'nothing'"),
        (["verify", "zoo:mixtral", "--seed", str(2**32)], "--seed"),
        (["inspect", "zoo:mixtral", "--svg", "/proc/a.svg"], "cannot write /proc/a.svg"),
        (["verify", "zoo:mixtral", "--unknown-option"], "No such option"),
        (["no-such-command"], "No such command"),
        (["verify", "stand_ins:raises"], "ZeroDivisionError: by design"),
        (["verify", "stand_ins:missing"], "cannot import stand_ins:missing"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words, message, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capfd, *words)
    lines = [line for line in err.splitlines() if line.startswith("moeverify: ")]
    assert code == 2
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("*.*"))


def test_a_run_ends_with_the_path_of_the_report(capfd, tmp_path):
    words = ["verify", "stand_ins:two_layers", "--checks", "terminates shapes", "--report", str(tmp_path)]
    code, out, err = call(capfd, *words)
    assert code == 0
    assert out.splitlines()[-1] == f"report: {tmp_path}/report.html"
    assert "✓ stand_ins:two_layers" in err


def test_json_on_standard_output_is_all_there_is(capfd, tmp_path):
    words = ["verify", "stand_ins:two_layers", "--checks", "terminates", "--json", "-", "--report", str(tmp_path)]
    code, out, err = call(capfd, *words)
    assert (code, err) == (0, "")
    assert out == (tmp_path / "report.json").read_text("utf-8")


def test_debug_shows_the_traceback():
    words = [sys.executable, "-m", "moeverify", "verify", "no-such", "--debug"]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert "Traceback" in done.stderr
    assert "SourceError" in done.stderr


def test_the_version_is_printed(capfd):
    code, out, _ = call(capfd, "--version")
    assert code == 0
    assert "torch 2" in out
