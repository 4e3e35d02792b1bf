"""Synthetic and zoo models in sizes that engines take."""

import pytest
import torch

from moeverify.models.engines.entries import sizes_of
from moeverify.models.sources import load_source
from moeverify.serving.folders import write_folder


@pytest.mark.parametrize("source", ["zoo:mixtral", "zoo:deepseek_v3"])
def test_zoo_models_have_heads_of_64_and_256_tokens(source):
    loaded = load_source(source, engine_ready=True)
    sizes = sizes_of(loaded.model.config.to_dict())
    assert loaded.model.config.vocab_size == 256
    assert sizes["head_size"] == 64
    assert sizes["hidden"] // 2 % 64 == 0
    assert torch.isfinite(loaded.model(**loaded.example_inputs).logits).all()


def test_synthetic_models_have_too():
    plain, ready = (load_source("synthetic:listed", engine_ready=wanted) for wanted in (False, True))
    assert ready.model.config.spec["vocab"] == 256 != plain.model.config.spec.get("vocab")
    assert ready.model.config.spec["head_dim"] == 64


def test_a_folder_gets_a_tokenizer_that_counts_as_the_model_does(tmp_path):
    from transformers import AutoTokenizer

    write_folder(load_source("zoo:mixtral", engine_ready=True).model, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == 256
    assert tokenizer("t7 t9", add_special_tokens=False)["input_ids"] == [7, 9]
