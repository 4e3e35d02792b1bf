"""Saved without half of their experts, models load in a process of plain transformers and give the same bits."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import moeverify as mv
from moeverify.models.zoo import build_zoo

TYPES = ("qwen3_moe", "mixtral", "deepseek_v3", "gpt_oss")
IDS = torch.arange(40).reshape(2, 20)

pytestmark = pytest.mark.slow  # a process of plain transformers, for all tests

# Runs without this project: everything that is loaded comes from transformers.
PLAIN = """
import json, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

root, logits = Path(sys.argv[1]), {}
for name in sys.argv[2:]:
    model, info = AutoModelForCausalLM.from_pretrained(
        root / name, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info.values()), (name, info)
    with torch.no_grad():
        logits[name] = model.eval()(torch.arange(40).reshape(2, 20)).logits.contiguous()
assert not any(module.startswith("moeverify") for module in sys.modules)
save_file(logits, root / "again.safetensors")
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of all pruned models, their logits before saving and after loading elsewhere."""
    root, before = tmp_path_factory.mktemp("pruned"), {}
    for name in TYPES:
        model = build_zoo(name)
        data = mv.Calibration(torch.randint(0, 100, (4, 16), generator=torch.Generator().manual_seed(0)), length=16)
        mv.MoEPruner(model, {"input_ids": IDS}, ratios={"experts": 0.5}, calibration=data).step()
        model.save_pretrained(root / name)
        with torch.no_grad():
            before[name] = model(IDS).logits.contiguous()
    save_file(before, root / "before.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(root), *TYPES], capture_output=True, text=True, cwd=root, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return root


@pytest.mark.parametrize("name", TYPES)
def test_plain_transformers_computes_the_same_bits(saved, name):
    before, again = (load_file(saved / f"{which}.safetensors")[name] for which in ("before", "again"))
    assert again.dtype == before.dtype
    assert torch.equal(again, before)


@pytest.mark.parametrize(
    ("name", "entry", "before"),
    [("qwen3_moe", "num_experts", 4), ("mixtral", "num_local_experts", 4), ("deepseek_v3", "n_routed_experts", 8),
     ("gpt_oss", "num_local_experts", 4)],
)  # fmt: skip
def test_the_configuration_counts_half_of_the_experts(saved, name, entry, before):
    config = json.loads((saved / name / "config.json").read_text("utf-8"))
    counts = {config[key] for key in (entry, "num_experts", "num_local_experts", "n_routed_experts") if key in config}
    assert counts == {before // 2}


def test_groups_stay_and_still_divide_the_experts(saved):
    config = json.loads((saved / "deepseek_v3" / "config.json").read_text("utf-8"))
    assert (config["n_group"], config["topk_group"], config["num_experts_per_tok"]) == (2, 1, 2)
    assert config["n_routed_experts"] % config["n_group"] == 0
