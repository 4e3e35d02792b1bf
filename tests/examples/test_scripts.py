"""The guide's two scripts, run as a user runs them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from synthetic_models.small import MODEL

ROOT = Path(__file__).parents[2]


def run(script, *words, cwd):
    command = [sys.executable, str(ROOT / "examples" / script), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


@pytest.mark.slow
def test_prunes_and_saves_what_transformers_loads(tmp_path):
    done = run("prune_llm.py", "--model", MODEL, "--pruning_ratio", 0.5, "--save_model", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "parameters, saved in " in done.stdout
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    assert (model.config.hidden_size, model.config.moe_intermediate_size) == (32, 32)
    words = AutoTokenizer.from_pretrained(tmp_path / "out")("say the cat", return_tensors="pt")
    with torch.no_grad():
        assert model(**words).logits.isfinite().all()
    again = run("prune_llm.py", "--model", MODEL, "--pruning_ratio", 0.5, "--save_model", "out", cwd=tmp_path)
    assert again.returncode == 2
    assert len(again.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_checks_a_model_and_writes_the_report(tmp_path):
    words = ("--model", MODEL, "--pruning_ratio", 0.5, "--cache_dir", tmp_path / "cache")
    done = run("test_moe_pruning.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for check in ("terminates", "expert-isolation", "masked-equivalence", "config-in-step", "reload"):
        assert any(line.split()[:2] == [check, "pass"] for line in done.stdout.splitlines()), check
    folder = tmp_path / "reports" / "test_moe_pruning"
    assert json.loads((folder / "report.json").read_text())["summary"]["fail"] == 0
    assert "<html" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_a_wrong_ratio_is_one_line(tmp_path):
    done = run("test_moe_pruning.py", "--model", MODEL, "--pruning_ratio", "1.5", cwd=tmp_path)
    assert done.returncode == 2
    assert "between 0 and 1" in done.stderr
    assert "Traceback" not in done.stderr
