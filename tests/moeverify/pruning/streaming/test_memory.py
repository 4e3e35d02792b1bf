"""Memory of pruning a folder: that of a layer, whatever the depth; the whole model under a limit, killed on the way."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from transformers import Qwen3MoeConfig

from benchmarks import streaming

LAYERS, EXPERTS, HIDDEN, WIDTH = 10, 32, 512, 256
SCRIPT = """
import sys, torch
from benchmarks.memory import watch
from moeverify.pruning.checkpoint.checkpoint import prune_checkpoint
prune_checkpoint(sys.argv[2], sys.argv[3] + "-small", pruning_ratio=0.5)  # everything is imported
with watch() as peak:
    done = prune_checkpoint(sys.argv[1], sys.argv[3], pruning_ratio=0.5, ratios={"experts": 0.5})
print(peak.bytes, len(done.notes))
"""


def write_model(folder, layers):
    """A Qwen3-MoE whose experts are most of it; returns its bytes."""
    folder.mkdir()
    Qwen3MoeConfig(
        hidden_size=HIDDEN,
        moe_intermediate_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        num_experts=EXPERTS,
        num_experts_per_tok=4,
        vocab_size=256,
        dtype="bfloat16",
        architectures=["Qwen3MoeForCausalLM"],
    ).save_pretrained(folder)
    ends = {"model.embed_tokens": (256, HIDDEN), "lm_head": (256, HIDDEN), "model.norm": (HIDDEN,)}
    inside = {
        "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,),
        "self_attn.q_proj": (512, HIDDEN),
        "self_attn.k_proj": (128, HIDDEN),
        "self_attn.v_proj": (128, HIDDEN),
        "self_attn.o_proj": (HIDDEN, 512),
        "self_attn.q_norm": (64,),
        "self_attn.k_norm": (64,),
        "mlp.gate": (EXPERTS, HIDDEN),
    }
    for expert in range(EXPERTS):
        for leaf, shape in (("gate", (WIDTH, HIDDEN)), ("up", (WIDTH, HIDDEN)), ("down", (HIDDEN, WIDTH))):
            inside[f"mlp.experts.{expert}.{leaf}_proj"] = shape
    shapes = {**ends, **{f"model.layers.{n}.{name}": shape for n in range(layers) for name, shape in inside.items()}}
    torch.manual_seed(0)
    tensors = {f"{name}.weight": torch.rand(shape, dtype=torch.bfloat16) - 0.5 for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return sum(t.nbytes for t in tensors.values())


@pytest.mark.slow
def test_memory_stays_below_three_layers(tmp_path):
    size = write_model(tmp_path / "base", LAYERS)
    layer = write_model(tmp_path / "shallow", 1)
    words = [sys.executable, "-c", SCRIPT, *(str(tmp_path / name) for name in ("base", "shallow", "out"))]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    ran = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    peak, notes = map(int, ran.stdout.split())
    assert notes == 0
    assert peak < 3 * layer < size / 3


@pytest.mark.slow
@pytest.mark.nightly
def test_six_gigabytes_under_four(tmp_path):
    """A model larger than the address space that the run may have, killed five times in between."""
    data = streaming.run(5, tmp_path)
    assert data["bytes"] > 5.5 * streaming.GIB > streaming.LIMIT
    assert data["kills"] == streaming.KILLS
    assert data["same_bytes_after_kills"]
    pruned = next(row for row in data["runs"] if row["name"].startswith("moeverify"))
    assert pruned["memory"] < data["largest_layer_float32"] + streaming.MOST_ABOVE_LAYER
    assert json.dumps(data)
