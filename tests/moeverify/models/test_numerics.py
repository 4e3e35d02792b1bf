"""The zoo's models are in the precision in which ``from_pretrained`` gives them."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from moeverify.models.zoo import build_zoo


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_a_class_keeps_in_float32_is_in_float32(dtype, tmp_path):
    model = build_zoo("hy_v4", dtype=dtype)  # its hyper-connections are
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    kinds = {name: p.dtype for name, p in model.named_parameters()}
    assert kinds == {name: p.dtype for name, p in loaded.named_parameters()}
    assert set(kinds.values()) == {torch.float32, dtype}
