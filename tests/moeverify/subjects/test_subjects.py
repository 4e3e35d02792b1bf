"""Subjects by name: plain functions, factories of Torch-Pruning's kind, forks; an endless expansion is known early."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch_pruning as tp
from torch import nn

import moeverify as mv
from moeverify.errors import ExpansionsExceeded, SourceError, UsageError
from moeverify.models.zoo import build_zoo
from moeverify.subjects import Pruned, adapt, load_subject, prune_stock
from moeverify.subjects.expansions import VARIABLE
from moeverify.subjects.groups import classes_of
from moeverify.subjects.torch_pruning import fork_package, use_fork
from moeverify.verdict import Status
from moeverify.verification.case import Case
from moeverify.verification.events import VerdictReached
from moeverify.verification.in_process import run_case

ROOT = Path(__file__).parents[3]


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x):
        return self.down(self.gate(x) * self.up(x))


def make_pruner(model, example_inputs, *, pruning_ratio, seed):
    return tp.pruner.BasePruner(
        model,
        example_inputs,
        importance=tp.importance.RandomImportance(),
        pruning_ratio=pruning_ratio,
        ignored_layers=[model.down],
    )


def test_a_factory_is_asked_for_its_groups_and_stepped():
    torch.manual_seed(0)
    model = Gated()
    outcome = adapt(make_pruner)(model, torch.randn(3, 6), pruning_ratio=0.5, seed=0)
    assert model.gate.out_features == model.up.out_features == model.down.in_features == 4
    (group,) = outcome.classes
    assert {(m.parameter, m.dim) for m in group.coupling.members} == {
        ("gate.weight", 0), ("gate.bias", 0), ("up.weight", 0), ("up.bias", 0), ("down.weight", 1),
    }  # fmt: skip
    assert all(m.positions.tolist() == [[i] for i in range(8)] for m in group.coupling.members)
    assert outcome.expansions > 3


def test_a_plain_functions_answer_is_ignored():
    outcome = adapt(lambda model, inputs, *, pruning_ratio, seed: 7)(Gated(), None, pruning_ratio=0.5, seed=0)
    assert outcome == Pruned() or (outcome.classes == () and outcome.expansions is None)


def test_an_endless_expansion_is_a_verdict_that_names_the_frames(monkeypatch):
    monkeypatch.setenv(VARIABLE, "2000")
    verdicts = []
    run_case(
        Case("zoo:mixtral", subject="torch-pruning"),
        lambda e: isinstance(e, VerdictReached) and verdicts.append(e.verdict),
    )
    first = verdicts[0]
    assert (first.check, first.status) == ("terminates", Status.TIMEOUT)
    assert "exceeded MAX_EXPANSIONS=2,000" in first.message
    assert "get_pruning_group" in first.evidence["frames"][1]
    assert {v.status for v in verdicts[1:]} == {Status.SKIP}
    assert "add_dep" in vars(tp.dependency.Group)
    assert tp.dependency.Group.add_dep.__name__ == "add_dep"


def test_a_group_that_stops_growing_is_counted_all_the_same(monkeypatch):
    monkeypatch.setenv(VARIABLE, "50")
    monkeypatch.setattr(tp.dependency.Group, "add_dep", lambda self, dep, idxs: None)

    def loops(model, inputs, **_):
        group = tp.dependency.Group()
        while True:
            group.add_dep("the same dependency", [0])

    with pytest.raises(ExpansionsExceeded, match="exceeded MAX_EXPANSIONS=50"):
        adapt(loops)(Gated(), None, pruning_ratio=0.5, seed=0)


def test_counting_can_be_switched_off(monkeypatch):
    monkeypatch.setenv(VARIABLE, "0")
    outcome = adapt(make_pruner)(Gated(), torch.randn(3, 6), pruning_ratio=0.5, seed=0)
    assert outcome.expansions is None


def test_counting_changes_no_group(monkeypatch):
    def groups():
        graph = tp.DependencyGraph().build_dependency(Gated(), torch.randn(3, 6))
        return [[(str(d), i) for d, i in g] for g in graph.get_all_groups()]

    plain = groups()
    counted = []
    adapt(lambda *a, **k: counted.extend(groups()))(None, None, pruning_ratio=0.5, seed=0)
    assert counted == plain


@pytest.fixture
def fork(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    saved = {n: m for n, m in sys.modules.items() if n.split(".")[0] == "torch_pruning"}
    folder = tmp_path / "fork" / "src" / "torch_pruning"
    shutil.copytree(Path(tp.__file__).parent, folder)
    with (folder / "__init__.py").open("a") as file:
        file.write("\nOURS = 'the fork'\n")
    yield tmp_path / "fork"
    for name in [n for n in sys.modules if n.split(".")[0] == "torch_pruning"]:
        del sys.modules[name]
    sys.modules.update(saved)


def test_a_fork_by_its_folder(fork, monkeypatch):
    monkeypatch.setenv(VARIABLE, "1000")
    subject = load_subject(str(fork))
    assert sys.modules["torch_pruning"].OURS == "the fork"
    assert "fork" in subject.__doc__
    model = build_zoo("mixtral")
    with pytest.raises(ExpansionsExceeded, match="exceeded MAX_EXPANSIONS=1,000"):
        subject(model, {"input_ids": torch.arange(16).view(1, 16)}, pruning_ratio=0.5, seed=0)


@pytest.mark.slow
def test_a_fork_that_is_installed_in_place_of_torch_pruning(fork, tmp_path):
    site = fork / "src"
    with (site / "torch_pruning" / "__init__.py").open("a") as file:
        file.write("\n\ndef refuse(*_, **__):\n    raise RuntimeError('acme bounds its groups')\n\n\n")
        file.write("DependencyGraph.get_pruning_group = refuse\n")
    (site / "torch_pruning-1.6.1+acme.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: torch-pruning\nVersion: 1.6.1+acme\n"
    (site / "torch_pruning-1.6.1+acme.dist-info" / "METADATA").write_text(metadata)
    done = subprocess.run(
        [sys.executable, "-m", "moeverify", "verify", "zoo:mixtral", "--subject", "torch-pruning", "--report", "out"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])},
    )
    assert done.returncode == 1, done.stderr
    result = mv.VerificationResult.from_json((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert "crashed (RuntimeError): acme bounds its groups" in result.verdicts[0].message
    assert result.versions["torch-pruning"] == "1.6.1+acme"


def test_wrong_names_are_refused_in_one_line(tmp_path):
    with pytest.raises(UsageError, match="unknown subject 'mou'; use moe, moe-experts, torch-pruning"):
        load_subject("mou")
    with pytest.raises(SourceError, match="cannot import nowhere:f"):
        load_subject("nowhere:f")
    with pytest.raises(UsageError, match="is not a function prune"):
        load_subject("sys:path")
    with pytest.raises(SourceError, match="holds no torch_pruning package"):
        use_fork(tmp_path)
    assert fork_package(Path(tp.__file__).parent) == Path(tp.__file__).parent.parent


def test_stock_is_counted_like_a_factory():
    pruner = prune_stock(Gated(), torch.randn(3, 6), pruning_ratio=0.5, seed=0)
    assert isinstance(pruner, tp.pruner.BasePruner)


def test_a_group_of_torch_prunings_takes_the_same_channels_of_every_expert():
    """Of a stack it cuts all slices alike, so its experts have none of their own."""
    model = build_zoo("mixtral")
    graph = mv.MoEDependencyGraph().build_dependency(model, {"input_ids": torch.arange(32).view(2, 16)})
    theirs = SimpleNamespace(
        get_all_groups=lambda: [graph.group_of(c) for c in graph.classes],
        is_out_channel_pruning_fn=graph.is_out_channel_pruning_fn,
    )
    for pruner_graph, experts in ((theirs, 0), (graph, 4)):
        groups = classes_of(SimpleNamespace(DG=pruner_graph), model)
        assert [c.experts for c in groups if c.role == "routed_experts"] == [experts] * 3
