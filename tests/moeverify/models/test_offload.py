"""Models spread by accelerate: hooks, main memory and disk, simulated on a CPU, are pruned as the plain model is."""

import copy

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from transformers import AutoModelForCausalLM

import moeverify as mv
from moeverify.models.offload import gather_offloaded, offloaded
from moeverify.models.sources import load_source
from synthetic_models.small import MODEL

IDS = torch.arange(2, 66).view(2, 32)
PARTS = ("model.embed_tokens", "model.layers.0", "model.layers.1", "model.layers.2", "model.norm", "model.rotary_emb")


def load(**more):
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, **more).eval()


def prune(model):
    plan = mv.MoEPruner(model, {"input_ids": IDS}, pruning_ratio=0.5, ignored_layers=[model.lm_head]).step()
    return plan, model(IDS).logits.detach()


def auto(folder):
    return load(device_map="auto")


def on_disk(folder):
    places = dict.fromkeys((*PARTS, "lm_head"), "cpu") | {"model.layers.1": "disk", "model.layers.2": "disk"}
    model = load(device_map=places, offload_folder=str(folder))
    assert model.model.layers[1].mlp.experts.down_proj.is_meta
    return model


def in_main_memory(folder):
    model = cpu_offload(load(), execution_device="cpu")
    assert model.lm_head.weight.is_meta
    return model


def with_hooks(folder):
    """As on several GPUs: nothing offloaded, but every layer's inputs are moved by a hook."""
    model = dispatch_model(load(), dict.fromkeys((*PARTS, "lm_head"), "cpu"), main_device="cpu", force_hooks=True)
    assert hasattr(model.model.layers[1].mlp, "_hf_hook")
    return model


@pytest.mark.parametrize("spread", [auto, on_disk, in_main_memory, with_hooks])
def test_pruned_as_the_plain_model(spread, tmp_path):
    plain, expected = prune(load())
    model = spread(tmp_path / "offload")
    assert torch.equal(model(IDS).logits, load()(IDS).logits)
    plan, logits = prune(model)
    assert plan.keep.keys() == plain.keep.keys()
    assert all((plan.keep[key] == plain.keep[key]).all() for key in plan.keep)
    assert torch.equal(logits, expected)
    model.save_pretrained(tmp_path / "saved")
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(again(IDS).logits, expected)


@pytest.mark.slow
@pytest.mark.parametrize("spread", [on_disk, with_hooks])
def test_every_check_passes_on_offloaded_weights(spread, tmp_path):
    model = spread(tmp_path)
    result = mv.verify(model, example_inputs={"input_ids": IDS}, pruning_ratio=0.5)
    assert {v.check: v.message for v in result.verdicts if v.status not in ("pass", "skip")} == {}
    assert result.ok
    assert model.config.hidden_size == 32


def test_gathering_returns_what_it_fetched_and_keeps_ties(tmp_path):
    model = load()
    model.lm_head.weight = model.model.embed_tokens.weight
    model.config.tie_word_embeddings = True
    size = sum(p.numel() * 4 for p in model.parameters())
    before = copy.deepcopy(model)
    assert gather_offloaded(model) == 0
    model = cpu_offload(model, execution_device="cpu")
    assert offloaded(model)
    assert gather_offloaded(model) >= size
    assert not offloaded(model)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before.parameters(), strict=True))


def test_a_hooked_copy_is_a_copy():
    model = with_hooks(None)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.layers[0].mlp.experts.down_proj.zero_()
    assert torch.equal(model(IDS).logits, load()(IDS).logits)
    assert not torch.equal(other(IDS).logits, model(IDS).logits)


def test_a_source_spread_by_auto_computes_the_same():
    spread, plain = (load_source("small", device=device).model for device in ("auto", "cpu"))
    assert torch.equal(spread(IDS).logits, plain(IDS).logits)
