"""The commands of README and docs run as they stand, page by page, in a folder that holds what a reader would have."""

import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from docs_pages import PAGES, ROOT, blocks, commands

from moeverify.cli import main
from moeverify.models.sources import load_source
from moeverify.serving.folders import write_folder

# Commands that need more than a folder, and what runs them.
ELSEWHERE = {
    "--executor ray": "tests/moeverify/verification/test_ray.py",
    "engines install": "tests/moeverify/serving/test_real_engines.py",
    "--engines vllm,llama.cpp": "tests/moeverify/serving/test_real_engines.py",
}
# Every type of the zoo takes minutes, and a hub name a network.
INSTEAD = {"zoo:all": ("zoo:mixtral", "zoo:qwen3_moe", "zoo:olmoe"), "org/name": ("./my-checkpoint",)}
BROKEN = "my_pruner:broken"

MY_MODELS = """
import torch
from torch import nn


class Expert(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.router, self.selector = nn.Linear(8, 4, bias=False), nn.Linear(8, 4, bias=False)
        self.specialists = nn.ModuleList(Expert() for _ in range(4))

    def forward(self, x):
        weights, chosen = (self.router(x) + self.selector(x)).softmax(-1).topk(2)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.specialists):
            out = out + expert(x) * (weights * (chosen == number)).sum(-1, keepdim=True)
        return x + out


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(64, 8), nn.Linear(8, 64)
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, input_ids):
        x = self.words(input_ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def make():
    torch.manual_seed(0)
    return Model().eval(), {"input_ids": torch.randint(0, 64, (2, 16))}
"""
MY_FORK = """
from moeverify import MoEPruner


def prune(model, example_inputs, *, pruning_ratio, seed):
    MoEPruner(model, example_inputs, pruning_ratio=pruning_ratio).step()
"""
PRUNE = """
import argparse

import torch
from transformers import AutoModelForCausalLM

import moeverify as mv

words = argparse.ArgumentParser()
words.add_argument("base"), words.add_argument("out")
words.add_argument("--ratio", type=float), words.add_argument("--seed", type=int)
given = words.parse_args()
model = AutoModelForCausalLM.from_pretrained(given.base)
inputs = {"input_ids": torch.zeros(2, 16, dtype=torch.long)}
mv.MoEPruner(model, inputs, pruning_ratio=given.ratio, ignored_layers=[model.lm_head]).step()
model.save_pretrained(given.out)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Checkpoints, modules and data under the names that the pages use."""
    folder = tmp_path / "here"
    folder.mkdir()
    write_folder(load_source("zoo:mixtral", engine_ready=True).model, folder / "my-checkpoint")
    for name in ("model", "BASE", "CHECKPOINT"):
        shutil.copytree(folder / "my-checkpoint", folder / name)
    shutil.copy(folder / "model" / "config.json", folder)
    text = " ".join(f"t{number}" for number in range(3, 200))
    (folder / "c4.jsonl").write_text((json.dumps({"text": text}) + "\n") * 8)
    (folder / "prune.py").write_text(PRUNE)
    tutorial = blocks(ROOT / "docs" / "tutorial.md", "python")
    broken = next(block for block in tutorial if "def broken" in block).partition("result = ")[0]
    for name, code in {"my_models": MY_MODELS, "my_moe": MY_MODELS, "my_fork": MY_FORK, "my_pruner": broken}.items():
        (folder / f"{name}.py").write_text(code)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # of ``python``
    yield folder
    for name in ("my_models", "my_moe", "my_fork", "my_pruner"):
        sys.modules.pop(name, None)


def exit_code(words):
    """The exit code of ``moeverify`` with ``words``."""
    with pytest.raises(SystemExit) as stopped:
        main(words)
    return stopped.value.code or 0


def there(command):
    """Whether a command runs here."""
    return not any(part in command for part in ELSEWHERE)


def runnable(page):
    """The page's commands that run here, as words."""
    lines = [shlex.split(line, comments=True)[1:] for line in commands(page) if there(line)]
    return [[new for word in words for new in INSTEAD.get(word, (word,))] for words in lines]


@pytest.mark.nightly
@pytest.mark.parametrize("page", [p for p in PAGES if any(map(there, commands(p)))], ids=lambda page: page.name)
def test_commands_run_from_top_to_bottom(page, place, capsys):
    if page.name == "certify.md":
        assert exit_code(["prune", "BASE", "--pruning-ratio", "0.5", "--save-model", "PRUNED"]) == 0
    if page.name == "prune-a-checkpoint.md":
        words = ["verify", "my_models:make", "--checks", "shapes", "--report", "moeverify-report"]
        assert exit_code(words) == 0
    for words in runnable(page):
        if words[-2:-1] == ["--save-model"]:
            shutil.rmtree(place / words[-1], ignore_errors=True)  # the commands of a page are alternatives
        code = exit_code(words)
        said = capsys.readouterr()
        assert code == (1 if BROKEN in words else 0), (words, said.out[-2000:], said.err[-2000:])


def test_what_runs_elsewhere_is_there():
    lines = [line for page in PAGES for line in commands(page)]
    for part, file in ELSEWHERE.items():
        assert any(part in line for line in lines)
        assert (ROOT / file).exists()
