"""Every attack runs in a private folder, with bounds on time and memory: one that succeeds ends as a failure."""

import os
import resource
import shutil
import signal

import pytest
import torch

from moeverify.models.zoo import build_zoo

SECONDS = 120  # an attack that succeeds takes for ever; a busy machine is slow
MEMORY = 4 << 30  # beyond what is in use when the test begins


def _in_use():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(autouse=True)
def bounds(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def stop(*_):
        raise TimeoutError(f"the attack took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_in_use() + MEMORY, hard))
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    """A small sound checkpoint; tests copy it."""
    folder = tmp_path_factory.mktemp("pristine") / "model"
    torch.manual_seed(0)
    build_zoo("qwen3_moe").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(pristine, tmp_path):
    """A copy of the sound checkpoint, to be damaged."""
    return shutil.copytree(pristine, tmp_path / "model")
