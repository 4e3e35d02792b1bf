"""The protocol of engines: answers, refusals, ends from outside, and what follows no protocol."""

import json
import sys
from pathlib import Path

import pytest

from moeverify.errors import EngineError
from moeverify.serving.answers import Question
from moeverify.serving.ask import ask

PYTHON = Path(sys.executable)
PROMPTS = ((1, 2), (3, 4))
ROWS = [[[1, -0.5], [0, -1.0]], [[2, -0.25], [5, -3.0]]]


@pytest.fixture
def asked(engine, tmp_path):
    """Ask a scripted engine for one folder for each script."""

    def run(*scripts, seconds=30.0):
        folders = []
        for number, script in enumerate(scripts):
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / "script.json").write_text(json.dumps(script))
            folders.append(folder)
        return ask(engine("scripted_engine.py"), PYTHON, Question(tuple(folders), PROMPTS), seconds)

    return run


def test_answers_come_by_token_in_the_order_of_the_folders(asked):
    first, second = asked({"version": "2", "distributions": ROWS}, {"refused": "no such\n architecture"})
    assert first.served
    assert first.version == "2"
    assert first.distributions == ({1: -0.5, 0: -1.0}, {2: -0.25, 5: -3.0})
    assert not second.served
    assert not second.undecided
    assert second.refused == "no such architecture"


def test_an_engine_that_does_not_answer_in_time_says_nothing_of_the_folder(asked):
    first, second = asked({"distributions": ROWS}, {"sleep": 60}, seconds=2.0)
    assert first.served
    assert second.undecided
    assert "no answer within 2 s" in second.refused


def test_an_engine_that_is_killed_says_nothing_of_the_folder(asked):
    first, second = asked({"distributions": ROWS}, {"die": "SIGKILL"})
    assert first.served
    assert second.undecided
    assert "out of memory" in second.refused


def test_an_engine_that_ends_before_its_first_answer_cannot_be_run(asked):
    with pytest.raises(EngineError, match=r"ImportError: no libllama.*moeverify engines install fake"):
        asked({"die": "SIGTERM", "say": "ImportError: no libllama"})


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("no json", "no answer"),
        ('{"folder": "/elsewhere", "refused": "x"}', "not asked for"),
        ('{"refused": "x"}', "no answer"),
    ],
)
def test_what_is_no_answer_is_an_error(asked, line, told):
    with pytest.raises(EngineError, match=told):
        asked({"line": line})


def test_too_few_distributions_are_no_answer(asked):
    with pytest.raises(EngineError, match="1 of 2 prompts"):
        asked({"distributions": ROWS[:1]})


def test_a_python_that_is_not_there_is_an_error(engine, tmp_path):
    with pytest.raises(EngineError, match="engines install fake"):
        ask(engine("scripted_engine.py"), tmp_path / "python", Question((tmp_path,), PROMPTS), 5.0)


def test_the_worker_sees_nothing_of_our_own_environment(asked, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("PYTHONHOME", "/nowhere")  # no Python starts with it
    (answer,) = asked({"distributions": ROWS})
    assert answer.served
