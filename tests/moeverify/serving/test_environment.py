"""Environments of engines: where they lie, what is missing, what is installed."""

import sys
from pathlib import Path

import pytest

from moeverify.cli.app import main
from moeverify.errors import EngineError
from moeverify.serving import environment
from moeverify.serving.engines import engine_named
from moeverify.serving.environment import engine_folder, install, installation, pinned_version


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MOEVERIFY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_engine_that_is_not_there_names_the_command_that_installs_it(cache):
    found = installation(engine_named("vllm"))
    assert found.python is None
    assert found.problem == "not installed; run `moeverify engines install vllm`"
    assert engine_folder(engine_named("vllm")).parent == cache / "engines"


def test_an_environment_of_the_users_own_is_taken(cache, monkeypatch):
    monkeypatch.setenv("MOEVERIFY_PYTHON_LLAMA_CPP", sys.executable)
    assert str(installation(engine_named("llama.cpp")).python) == sys.executable
    monkeypatch.setenv("MOEVERIFY_PYTHON_LLAMA_CPP", "/no/python")
    assert "MOEVERIFY_PYTHON_LLAMA_CPP names /no/python" in installation(engine_named("llama.cpp")).problem


def test_pins_are_exact_and_name_the_release():
    for name in ("vllm", "llama.cpp"):
        engine = engine_named(name)
        lines = [line for line in engine.pins.read_text("utf-8").splitlines() if not line.startswith("#")]
        assert all("==" in line for line in lines)
        assert pinned_version(engine)
        assert engine.worker.is_file()


@pytest.mark.parametrize("fails", ["venv", "install", "torch", "sources", None])
def test_an_installation_is_there_only_when_every_step_succeeded(cache, monkeypatch, fails):
    steps = []

    def step(name):
        steps.append(name)
        if name == fails:
            raise EngineError("no index")

    def run(command, engine):
        if "venv" in command:
            Path(command[-1]).mkdir(parents=True)
        step("venv" if "venv" in command else command[command.index("pip") + 1])

    monkeypatch.setattr(environment, "_run", run)
    monkeypatch.setattr(environment, "_add_torch", lambda *_: step("torch"))
    monkeypatch.setattr(environment, "_unpack", lambda *_: step("sources"))
    engine = engine_named("llama.cpp")
    (engine_folder(engine) / "left").mkdir(parents=True)  # of an interrupted installation
    if fails:
        with pytest.raises(EngineError, match="no index"):
            install(engine)
        assert installation(engine).python is None
    else:
        assert install(engine) == installation(engine).python
        assert steps == ["venv", "install", "torch", "sources"]
        assert not (engine_folder(engine) / "left").exists()


def test_the_command_lists_engines_and_limits(cache, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["engines", "list", "--limits"])
    assert ended.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "moeverify engines install vllm" in out
    assert "vllm-project/vllm#50982, 2026-08-04" in out


def test_an_unknown_engine_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["engines", "install", "sglang"])
    assert ended.value.code == 2
    assert "unknown engine 'sglang'" in capsys.readouterr().err
