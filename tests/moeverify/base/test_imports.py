"""A package that moeverify is built on and that cannot be imported is one line and exit code 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(
    params=[
        "import nonexistent_thing",
        *(pytest.param(t, marks=pytest.mark.nightly) for t in ("def (", "raise RuntimeError('no such\\nkernel')", "")),
    ]
)
def broken(request, tmp_path):
    """A fork installed in place of Torch-Pruning: it cannot be parsed or imported, or lacks what we build on."""
    package = tmp_path / "site" / "torch_pruning"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(request.param)
    return package


def call(package, *words):
    path = os.pathsep.join([str(package.parent), str(ROOT)])
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})


@pytest.mark.slow
def test_a_broken_fork_in_place_is_one_line(broken):
    words = ("moeverify", "verify", "zoo:mixtral", "--subject", "torch-pruning", "--checks", "shapes")
    done = call(broken, *words)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith("moeverify: cannot start, ")
    assert "torch_pruning" in line
    done = call(broken, *words, "--debug")
    assert done.returncode != 0
    assert "Traceback" in done.stderr


@pytest.mark.slow
def test_the_plugin_gives_the_same_line(broken, tmp_path):
    plugin = ("-p", "moeverify.pytest_plugin") if not _installed() else ()
    done = call(broken, "pytest", *plugin, "--rootdir", str(tmp_path), "--moeverify-subject", "moe", str(tmp_path))
    assert done.returncode == 4
    assert "ERROR: cannot start, " in done.stderr
    assert "Traceback" not in done.stderr


def _installed():
    from importlib.metadata import entry_points

    return any(e.value == "moeverify.pytest_plugin" for e in entry_points(group="pytest11"))
