"""Training is reproducible, and the committed model is what its card says."""

import hashlib
import math
from dataclasses import replace

import pytest
import torch

from moeverify.models.roles import find_roles
from moeverify.models.sources import load_source
from synthetic_models.small import MODEL
from synthetic_models.small import specialisation as spec
from synthetic_models.small.text import KINDS
from synthetic_models.small.tokenizer import build_tokenizer
from synthetic_models.small.train import IGNORED, Recipe, batches, build_model, information, learning_rate, save, train

BRIEF = replace(Recipe(), steps=3, rows=2)


def test_two_runs_write_the_same_bytes(tmp_path):
    digests = []
    for name in ("one", "other"):
        save(train(BRIEF), tmp_path / name)
        files = sorted(p for p in (tmp_path / name).iterdir())
        digests.append([(p.name, hashlib.sha256(p.read_bytes()).hexdigest()) for p in files])
    assert digests[0] == digests[1]
    save(train(replace(BRIEF, seed=1)), tmp_path / "third")
    assert (
        dict(digests[0])["model.safetensors"]
        != hashlib.sha256((tmp_path / "third" / "model.safetensors").read_bytes()).hexdigest()
    )


def test_only_answers_are_learned():
    tokenizer = build_tokenizer()
    batch = next(batches(BRIEF, tokenizer.get_vocab()))
    assert batch.tokens.shape == batch.labels.shape == batch.kinds.shape == (2, BRIEF.length)
    learned = batch.labels != IGNORED
    assert 0.2 < learned.float().mean() < 0.6
    assert torch.equal(batch.labels[learned], batch.tokens[learned])
    tags = torch.tensor([tokenizer.convert_tokens_to_ids(kind) for kind in KINDS])
    begins = torch.isin(batch.tokens, tags)
    assert torch.equal(batch.tokens[begins], tags[batch.kinds[begins]])


def test_information_is_that_of_the_kind():
    kinds = torch.arange(5).repeat(20)
    told = 50.0 * torch.nn.functional.one_hot(kinds, 8).float()
    assert information([told], kinds) == pytest.approx(math.log(5), abs=1e-4)
    assert information([torch.zeros(100, 8)], kinds) == pytest.approx(0, abs=1e-6)
    counts = torch.eye(5, 8)
    assert spec.information(counts) == pytest.approx(math.log2(5))
    assert spec.information(torch.ones(5, 8)) == pytest.approx(0, abs=1e-6)


def test_learning_rate_rises_and_falls_to_nothing():
    rates = [learning_rate(Recipe(steps=100), step) for step in range(101)]
    assert max(rates) == rates[4] == Recipe.learning_rate
    assert rates[:5] == sorted(rates[:5])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(0)


def test_the_committed_model_is_a_small_moe_with_its_tokenizer():
    weights = MODEL / "model.safetensors"
    assert weights.stat().st_size < 6 * 2**20
    loaded = load_source("small")
    roles = find_roles(loaded.model)
    assert len(roles.layers) == 3
    assert all(layer.fused and len(layer.experts) == 8 and layer.shared_experts for layer in roles.layers)
    assert load_source("small", dtype=torch.bfloat16).model.dtype is torch.bfloat16
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    text = "add 7 3 + 8 4 = 5 8 0 ."
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert loaded.tasks == ("small",)


@pytest.mark.slow
def test_the_trained_router_is_specialised():
    trained = load_source("small").model
    untrained = build_model(Recipe(), len(build_tokenizer())).eval()
    told = [[spec.information(c) for c in spec.usage(model, documents=20)] for model in (trained, untrained)]
    assert min(told[0]) > 0.8
    assert min(told[0]) > 2 * max(told[1])
    assert len(spec.table(spec.usage(trained, 2)).splitlines()) == 2 + 3 * len(KINDS)
