"""No exit code 0 without a verdict, no option in a message that is not there, no traceback where a pipe is closed."""

import ast
import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from moeverify.cli import app, main
from moeverify.pytest_plugin import options as plugin
from moeverify.verification.settings import SELECTION, selected

ROOT = Path(__file__).parents[3]
COMMAND = f"{shlex.quote(sys.executable)} -m moeverify"


def environment():
    places = [str(ROOT / "tests/support"), str(ROOT)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places)}


def call(capfd, *words):
    with pytest.raises(SystemExit) as stop:
        main(words)
    out, err = capfd.readouterr()
    return stop.value.code, out, err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One working directory for all: runs share a fork server where they share that."""
    return tmp_path_factory.mktemp("doors")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["verify", "stand_ins:two_layers", "--subject", "exits_on_import:prune"], "exits_on_import:prune: left by"),
        (["verify", "hostile_subjects:exits_as_a_factory", "--checks", "shapes"], "failed: left by SystemExit(0)"),
        (["inspect", "hostile_subjects:exits_as_a_factory"], "failed: left by SystemExit(0)"),
        (["inspect", "exits_on_import:prune"], "cannot import exits_on_import:prune: left by SystemExit(0)"),
        (["prune", "hostile_subjects:exits_as_a_factory", "--save-model", "o"], "failed: left by SystemExit(0)"),
        (["prune", "zoo:mixtral", "--plan", "p", "--importance", "hostile_subjects:exits_as_importance"], "left by S"),
        (["verify", "stand_ins:two_layers", "--load", "exits_on_import"], "cannot load exits_on_import"),
        (["verify", "stand_ins:two_layers", "--report", "r", "--resume"], "nothing to resume in r"),
        (["verify", "stand_ins:two_layers", "--ratio", "hidden=1.5"], "must lie in [0, 1), not 1.5"),
        (["verify", "stand_ins:two_layers", "--ratio", "nobody=0"], "unknown role 'nobody'"),
        (["prune", "zoo:mixtral", "--plan", "p", "--ratio", "nobody=0"], "unknown role 'nobody'"),
        (["verify", "stand_ins:two_layers", "--subject", "stand_ins:slow", "--round-to", "8"],
         "stand_ins:slow has no parameter 'round_to'; leave out --round-to"),
        (["verify", "stand_ins:two_layers", "--subject", "stand_ins:slow", "--ignore", "a"],
         "stand_ins:slow has no parameter 'ignore'; leave out --ignore"),
        (["verify", "stand_ins:two_layers", "--ignore", "nowhere"], "no layer or parameter 'nowhere' to ignore"),
        (["verify", "stand_ins:two_layers", "--importance", "nobody"], "unknown importance 'nobody'"),
    ],
)  # fmt: skip
def test_one_line_and_exit_code_2(words, message, capfd, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MOEVERIFY_LOAD", "")
    code, _, err = call(capfd, *words)
    (line,) = [line for line in err.splitlines() if line.startswith("moeverify: ")]
    assert code == 2
    assert message in line
    assert "Traceback" not in err
    assert not (folder / "o").exists()


def test_a_run_in_which_everything_was_skipped_says_why(capfd, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MOEVERIFY_LOAD", "")
    words = ["verify", "stand_ins:two_layers", "--checks", "reload", "--report", str(tmp_path)]
    code, out, _ = call(capfd, *words)
    assert code == 1
    assert "no check could be carried out:\n  stand_ins:two_layers: not a model of transformers" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "verify --help",
        pytest.param("zoo mixtral", marks=pytest.mark.nightly),
        pytest.param("verify stand_ins:two_layers --checks terminates --report r", marks=pytest.mark.nightly),
    ],
)
def test_a_closed_pipe_ends_quietly(words, tmp_path):
    line = f"{{ {COMMAND} {words}; echo $? > code; }} | head -1"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, cwd=tmp_path, env=environment())
    assert "Traceback" not in done.stderr
    assert "moeverify: " not in done.stderr
    assert (tmp_path / "code").read_text().strip() in ("0", "141")  # 0: it was done before the pipe was closed


def test_help_costs_little():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    heavy = {"torch", "transformers", "jsonschema", "jinja2", "psutil", "numpy"}
    program = (
        "import sys\nfrom moeverify.__main__ import main\n"
        f"try: main()\nfinally: assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    )
    for words in (["--help"], ["verify", "--help"], ["prune", "--help"]):
        done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, env=environment())
        assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Less than 0.3 seconds each where nothing else runs.
    assert after.ru_utime - before.ru_utime < 3 * 0.9


def commands():
    top = typer.main.get_command(app)
    for command in top.commands.values():
        yield from getattr(command, "commands", {"": command}).values()


# The commands at which messages of a room appear; an option that one names exists at all of them.
DOORS = {
    "checks": ["verify"],
    "evaluation": ["verify"],
    "subjects": ["verify"],
    "certification": ["certify"],
    "coupling": ["verify", "prune", "inspect"],
    "pruning": ["prune"],
}
# Exceptions: these files are reached from some of the commands alone.
FILES = {
    "subjects/faults/registry.py": ["self-test"],
    "models/casting.py": ["verify", "prune", "inspect", "evaluate"],
    "models/full_size.py": ["inspect"],
    "models/roles_file.py": ["verify", "prune", "inspect"],
    "serving/at_plan_time.py": ["prune"],
}


def options_in_messages(path):
    """Options that string literals of a file name, docstrings left out, each with its line."""
    tree = ast.parse(path.read_text("utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and node.body
        if isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            for word in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z](?![\w-])", node.value):
                yield node.lineno, word


def test_every_option_that_a_message_names_exists_where_the_message_appears():
    top = typer.main.get_command(app).commands
    known = {
        name: {word for p in command.params for word in (*p.opts, *p.secondary_opts)} for name, command in top.items()
    }
    lacking, seen = [], 0
    for room in (ROOT / "moeverify").iterdir():
        for path in sorted(room.rglob("*.py")):
            name = str(path.relative_to(ROOT / "moeverify"))
            for line, word in options_in_messages(path):
                for door in FILES.get(name, DOORS.get(room.name, [])):
                    seen += 1
                    if word not in known[door]:
                        lacking.append(f"{name}:{line}: {door} has no {word}")
    assert lacking == []
    assert seen > 20


def test_verify_prune_and_the_plugin_take_the_same_selection():
    top = typer.main.get_command(app).commands
    flags = {option.flag for option in selected(SELECTION)}
    words = "--ratio --no-shared-experts --round-to --ignore --roles --importance --calibration"
    assert set(words.split()) <= flags
    for door in ("verify", "prune"):
        assert flags <= {word for p in top[door].params for word in (*p.opts, *p.secondary_opts)}, door
    assert flags <= {option.flag for option in plugin.ALL}


def test_every_option_that_a_message_names_exists():
    known = {word for command in commands() for p in command.params for word in getattr(p, "opts", [])}
    known |= {word for command in commands() for p in command.params for word in getattr(p, "secondary_opts", [])}
    known |= {f"--moeverify-{o.flag[2:]}" for o in plugin.ALL} | {"--debug", "--version", "--help"}
    foreign = {"--no-deps", "--no-binary", "--extra-index-url"}  # pip's
    unknown = []
    for path in (ROOT / "moeverify").rglob("*.py"):
        for line, word in options_in_messages(path):
            if word not in known | foreign:
                unknown.append(f"{path.relative_to(ROOT)}:{line}: {word}")
    assert unknown == []


@pytest.mark.slow
def test_reproduce_lines_run_as_they_stand(tmp_path):
    """Whole lines with real runs: the same verdict again, from another process that knows nothing but the line."""
    module = tmp_path / "elsewhere" / "a_pruner.py"
    module.parent.mkdir()
    module.write_text(
        "import moeverify as mv\n"
        "from stand_ins import two_layers as model\n"
        "def prune(model, example_inputs, *, pruning_ratio, seed, round_to=None):\n"
        "    raise ValueError(f'round_to={round_to} ratio={pruning_ratio} seed={seed}')\n"
        "if __name__ == '__main__':\n"
        "    import a_pruner\n"
        "    result = mv.verify('a_pruner:model', subject=a_pruner.prune, round_to=8, pruning_ratio=0.3, seed=4,\n"
        "                       checks=['terminates'], timeout=77)\n"
        "    print(result.verdicts[0].reproduce)\n"
    )
    words = [sys.executable, str(module)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment())
    line = done.stdout.strip()
    assert line == (
        f"PYTHONPATH={module.parent}:$PYTHONPATH moeverify verify a_pruner:model --subject a_pruner:prune "
        "--pruning-ratio 0.3 --seed 4 --checks terminates --round-to 8 --timeout 77.0"
    ), done.stderr
    line = line.replace(" moeverify ", f" {COMMAND} ", 1)
    again = subprocess.run(line, shell=True, capture_output=True, text=True, cwd=tmp_path, env=environment())
    assert again.returncode == 1
    assert "round_to=8 ratio=0.3 seed=4" in again.stdout
