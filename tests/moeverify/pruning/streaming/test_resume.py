"""A run that is killed goes on where it was: the same bytes, nothing written twice, no folder that looks whole."""

import filecmp
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import moeverify as mv
from moeverify.errors import PruningRefused, UsageError
from moeverify.models.folder.writer import ShardWriter
from moeverify.models.zoo import build_zoo
from moeverify.pruning.checkpoint.checkpoint import prune_checkpoint
from moeverify.pruning.checkpoint.saved import PLAN_FILE
from moeverify.pruning.streaming import journal, prune, writing

ASKED = {"pruning_ratio": 0.5, "ratios": {"experts": 0.5}}


class Killed(BaseException):
    """Ends a run as a signal would: nothing is cleaned up that a killed process would leave."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    build_zoo("qwen3_moe", dtype=torch.bfloat16).save_pretrained(folder, max_shard_size="40KB")
    return folder


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    done = prune_checkpoint(str(base), tmp_path_factory.mktemp("whole") / "out", **ASKED)
    assert done.notes == ()  # a note would say that the model was loaded as a whole
    assert len(list(done.folder.glob("*.safetensors"))) > 1
    return done.folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same(one, two):
    assert names(one) == names(two)
    assert filecmp.cmpfiles(one, two, names(one), shallow=False)[0] == names(one)


def killed_after(count, monkeypatch):
    """Let a run end after ``count`` groups, and count the groups that are written from then on."""
    written = []
    original = writing.FolderWriter._write_group

    def write(self, group, values):
        if len(written) == count:
            raise Killed
        written.append(group.names[0])
        original(self, group, values)

    monkeypatch.setattr(writing.FolderWriter, "_write_group", write)
    return written


def test_a_killed_run_goes_on_and_writes_nothing_twice(base, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "_SECONDS", 0.0)
    planned = []
    made = prune._planned
    monkeypatch.setattr(prune, "_planned", lambda *a, **k: planned.append(1) or made(*a, **k))
    seen = []
    for count in (4, 4, 4, 4, 4):
        with monkeypatch.context() as patched:
            written = killed_after(count, patched)
            with pytest.raises(Killed):
                prune_checkpoint(str(base), tmp_path / "out", **ASKED)
            seen += written
        assert names(tmp_path) == [".out.moeverify"]  # nothing that looks like a result
    with monkeypatch.context() as patched:
        seen += killed_after(-1, patched)
        done = prune_checkpoint(str(base), tmp_path / "out", **ASKED)
    assert_same(done.folder, whole)
    assert names(tmp_path) == ["out"]
    assert len(planned) == 1
    assert len(seen) == len(set(seen)) == 20


def test_another_request_begins_anew(base, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        killed_after(3, patched)
        with pytest.raises(Killed):
            prune_checkpoint(str(base), tmp_path / "out", pruning_ratio=0.25)
    assert_same(prune_checkpoint(str(base), tmp_path / "out", **ASKED).folder, whole)


def test_arguments_that_cannot_be_compared_are_never_the_same(base):
    def asked(source):
        return {"more": {"calibration": mv.Calibration(source, samples=2), "expert_criterion": None}}

    long = torch.arange(10_000)[None]  # the text of a long tensor leaves out its middle
    other = long.clone()
    other[0, 5_000] = 0
    assert journal.request_of(base, asked(long)) == journal.request_of(base, asked(long.clone()))
    assert journal.request_of(base, asked(long)) != journal.request_of(base, asked(other))
    assert journal.request_of(base, {"more": print}) != journal.request_of(base, {"more": print})


def test_a_base_that_changed_begins_anew(base, tmp_path):
    before = journal.request_of(base, ASKED)
    assert before == journal.request_of(base, dict(ASKED))
    file = sorted(base.glob("*.safetensors"))[0]
    stat = file.stat()
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    try:
        assert journal.request_of(base, ASKED) != before
    finally:
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert journal.request_of(base, ASKED) == before


def test_a_kill_while_the_rest_is_copied(base, whole, tmp_path, monkeypatch):
    """What is not done tensor by tensor is done anew, from the plan that is there."""

    def stop(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(prune, "bring_companions", stop)
        with pytest.raises(Killed):
            prune_checkpoint(str(base), tmp_path / "out", **ASKED)
    assert_same(prune_checkpoint(str(base), tmp_path / "out", **ASKED).folder, whole)


def test_a_full_disk_is_one_line_and_leaves_nothing(base, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("moeverify.models.folder.writer.ShardWriter.write", full)
    with pytest.raises(UsageError, match="No space left on device; nothing was left behind"):
        prune_checkpoint(str(base), tmp_path / "out", **ASKED)
    assert names(tmp_path) == []


def test_values_that_load_otherwise_are_refused(base, tmp_path, monkeypatch):
    write = ShardWriter.write
    monkeypatch.setattr(ShardWriter, "write", lambda self, name, values: write(self, name, values * 1.5))
    with pytest.raises(PruningRefused, match="loads from the pruned folder with other values"):
        prune_checkpoint(str(base), tmp_path / "out", **ASKED)
    assert names(tmp_path) == []


@pytest.mark.slow
def test_a_process_that_was_killed_is_run_again_and_gives_the_same_weights(base, whole, tmp_path):
    """A process of its own, killed by a signal as soon as something is written."""
    words = [sys.executable, "-m", "moeverify", "prune", str(base), "--save-model", str(tmp_path / "out")]
    words += ["--pruning-ratio", "0.5", "--ratio", "experts=0.5"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begun = tmp_path / ".out.moeverify" / "journal" / "plan.json"
    while not begun.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out").exists() or process.returncode == 0
    assert subprocess.run(words, capture_output=True, check=False).returncode == 0
    weights = [name for name in names(whole) if name != PLAN_FILE]
    assert filecmp.cmpfiles(tmp_path / "out", whole, weights, shallow=False)[0] == weights
