"""Additions of other packages: found by entry point or by name, in every process, refused in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moeverify.base.extensions import VARIABLE, load_extensions, load_modules
from moeverify.errors import ExtensionError

ROOT = Path(__file__).parents[3]
EXTENSION = ROOT / "tests" / "extension"
RULE = """
import torch, moeverify as mv
import acme_extension.doubled as acme

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = torch.nn.Linear(3, 4), torch.nn.Linear(4, 3)
    def forward(self, x):
        return self.down(acme.doubled(self.up(x)))

couplings = mv.trace_couplings(Net(), torch.randn(2, 3))
assert not couplings.unknown_operations, couplings.unknown_operations
assert any(c.size == 4 for c in couplings.classes), couplings.classes
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The environment of a process in which the extension is installed."""
    folder = tmp_path_factory.mktemp("site")
    words = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(folder)]
    subprocess.run([sys.executable, *words, str(EXTENSION)], check=True)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


@pytest.mark.slow
def test_a_check_and_a_fault_of_another_package_run_in_the_worker(environment, tmp_path):
    words = ["verify", "zoo:mixtral", "--subject", "fault:faults/not-finite", "--checks", "acme-finite"]
    done = subprocess.run(
        [sys.executable, "-m", "moeverify", *words], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "down_proj holds NaN or infinity" in done.stdout


IMPORTANCES = """
import torch, moeverify as mv
from moeverify.models.zoo import build_zoo
from moeverify.pruning.choice.criteria import criterion_named
from moeverify.pruning.choice.importances import importance_named

assert criterion_named("acme-largest-weight").from_weights is not None
model = build_zoo("mixtral")
inputs = {"input_ids": torch.arange(32).view(2, 16)}
mv.MoEPruner(model, inputs, importance=importance_named("acme-largest-weight"), pruning_ratio=0.5).step()
assert model.config.intermediate_size < build_zoo("mixtral").config.intermediate_size
"""


@pytest.mark.slow
def test_importances_of_another_package_rank(environment):
    done = subprocess.run([sys.executable, "-c", IMPORTANCES], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_rule_of_another_package_relates_its_operation(environment):
    done = subprocess.run([sys.executable, "-c", RULE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_named_modules_are_loaded_here_and_by_children(monkeypatch, tmp_path):
    (tmp_path / "added_by_a_test.py").write_text("loaded = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(VARIABLE, "")
    assert load_modules(["added_by_a_test"]) == ("added_by_a_test",)
    assert sys.modules.pop("added_by_a_test").loaded
    assert load_modules() == ("added_by_a_test",)
    assert os.environ[VARIABLE] == "added_by_a_test"


@pytest.mark.parametrize(
    ("text", "reason"), [("1 / 0", "ZeroDivisionError: division by zero"), ("raise ValueError", "no message")]
)
def test_a_module_that_cannot_be_loaded_is_one_line(monkeypatch, tmp_path, text, reason):
    (tmp_path / "broken_addition.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(ExtensionError, match=f"cannot load broken_addition.*{reason}"):
        load_modules(["broken_addition"])


def test_a_kind_that_nobody_adds_to_is_empty():
    assert load_extensions("none-of-this-name") == ()
