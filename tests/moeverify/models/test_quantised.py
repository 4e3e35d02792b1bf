"""Checkpoints that are stored quantised: read in one type of numbers, pruned, saved and read again unquantised."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GptOssConfig, GptOssForCausalLM

from moeverify.errors import SourceError
from moeverify.models.quantised import quantisation_of
from moeverify.models.sources import load_source
from moeverify.models.zoo import build_zoo
from moeverify.pruning.checkpoint.checkpoint import prune_checkpoint

BLOCK = 16


def rewrite(folder, tensors, quantization):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "quantization_config": quantization}))
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})


def store_fp8(folder):
    """Projections in blocks of fp8 with a scale for each; returns what they are worth."""
    stored, worth = {}, {}
    for name, values in load_file(folder / "model.safetensors").items():
        worth[name] = values
        stored[name] = values
        rows, columns = values.shape if values.dim() == 2 else (1, 1)
        if "_proj." in name and rows % BLOCK == 0 and columns % BLOCK == 0:
            blocks = values.float().view(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
            scale = blocks.abs().amax((1, 3)) / 448
            small = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
            stored[name], stored[f"{name}_scale_inv"] = small.view(rows, columns), scale
            worth[name] = (small.float() * scale[:, None, :, None]).view(rows, columns)
    rewrite(folder, stored, {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]})
    return worth


def store_mxfp4(folder):
    """Experts as pairs of four-bit numbers with an exponent for each 32."""
    stored = {}
    generator = torch.Generator().manual_seed(0)
    for name, values in load_file(folder / "model.safetensors").items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, inner, outer = values.shape
            shape = (experts, outer, inner // 32)
            stored[f"{name}_blocks"] = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8, generator=generator)
            stored[f"{name}_scales"] = torch.randint(118, 122, shape, dtype=torch.uint8, generator=generator)
        else:
            stored[name] = values
    rewrite(folder, stored, {"quant_method": "mxfp4"})


def types(model):
    return {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()}


@pytest.fixture(scope="module")
def fp8(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fp8") / "model"
    build_zoo("deepseek_v3", dtype=torch.bfloat16).save_pretrained(folder)
    return folder, store_fp8(folder)


@pytest.fixture(scope="module")
def mxfp4(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mxfp4") / "model"
    torch.manual_seed(0)
    config = GptOssConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=8,
    )
    GptOssForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    store_mxfp4(folder)
    return folder


def test_one_type_of_numbers_and_the_values_that_were_stored(fp8):
    folder, worth = fp8
    loaded = load_source(str(folder))
    assert types(loaded.model) == {torch.float32}
    assert "dequantised to float32" in loaded.notes[0]
    weight = loaded.model.get_parameter("model.layers.0.self_attn.o_proj.weight")
    torch.testing.assert_close(weight, worth["model.layers.0.self_attn.o_proj.weight"].float(), rtol=1e-6, atol=0)
    assert loaded.model(**loaded.example_inputs).logits.dtype is torch.float32


def test_what_is_held_in_float32_stays_in_float32(fp8):
    folder, worth = fp8
    loaded = load_source(str(folder), dtype=torch.bfloat16)
    biases = {n: t for n, t in loaded.model.state_dict().items() if n.endswith("e_score_correction_bias")}
    assert biases
    for name, bias in biases.items():
        assert bias.dtype is torch.float32
        assert torch.equal(bias, worth[name])
    assert types(loaded.model) == {torch.bfloat16, torch.float32}


@pytest.mark.parametrize("stored", ["fp8", "mxfp4"])
def test_pruned_and_saved_unquantised(stored, request, tmp_path):
    given = request.getfixturevalue(stored)
    folder = given[0] if isinstance(given, tuple) else given
    stages = []
    done = prune_checkpoint(str(folder), tmp_path / "out", progress=stages.append)
    said = next(n for n, stage in enumerate(stages) if f"stored quantised ({stored}): dequantised to bfloat16" in stage)
    assert said < stages.index("trace")
    assert any("is not quantised" in note for note in done.notes)
    assert "quantization_config" not in json.loads((done.folder / "config.json").read_text("utf-8"))
    saved = load_file(done.folder / "model.safetensors")
    assert {t.dtype for t in saved.values()} <= {torch.bfloat16, torch.float32}
    assert not [name for name in saved if "scale" in name or "blocks" in name]
    again = load_source(str(done.folder), dtype=torch.bfloat16)
    assert again.notes == ()
    assert sum(p.numel() for p in again.model.parameters()) == done.parameters_after < done.parameters_before


def test_experts_are_written_as_published(fp8, tmp_path):
    folder, _ = fp8
    done = prune_checkpoint(str(folder), tmp_path / "out", pruning_ratio=0.25)
    names = {name for name in load_file(folder / "model.safetensors") if not name.endswith("scale_inv")}
    assert set(load_file(done.folder / "model.safetensors")) == names


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "of_their_own"])
def test_what_cannot_be_dequantised_is_refused_by_name(method):
    found = quantisation_of({"text_config": {"quantization_config": {"quant_method": method}}})
    with pytest.raises(SourceError, match=rf"stored quantised \({method}\)"):
        found.arguments("m")
    assert quantisation_of({"quantization_config": None}) is None
