"""The code in docs/from-torch-pruning.md runs as it stands there."""

import re
from pathlib import Path

import torch
from conv_nets import IMAGE, Residual
from small_nets import build

from moeverify.models.zoo import build_zoo

GUIDE = Path(__file__).parents[3] / "docs" / "from-torch-pruning.md"


def test_every_block_of_the_guide_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    names = {
        "model": build_zoo("qwen2_moe"),
        "example_inputs": {"input_ids": torch.arange(32).view(2, 16)},
        "folder": tmp_path,
        "network": build(Residual),
        "image": IMAGE[0],
    }
    hidden = names["model"].config.hidden_size
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), names)
    assert names["model"].config.hidden_size == hidden // 2
    assert (tmp_path / "model.safetensors").exists()
    assert names["history"][-1][2] == [0, 3]
    names["regularised"].step()
    assert names["network"].stem.out_channels == 4
