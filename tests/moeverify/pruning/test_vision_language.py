"""Vision-language MoE: the text part is pruned with its configuration, with and without images."""

import copy

import pytest
import torch
import transformers as tf

import moeverify as mv
from moeverify.models.numerics import float64_throughout
from moeverify.models.outputs import float_outputs

IMAGE = 90


def model_and_inputs(images):
    """A small Qwen3-VL-MoE; one image of four merged patches if asked."""
    torch.manual_seed(0)
    text = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 40}
    text |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    text |= {"num_experts": 4, "num_experts_per_tok": 2, "pad_token_id": 0}
    text |= {"rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True}}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 20, "num_heads": 2, "patch_size": 4}
    vision |= {"out_hidden_size": 32, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    marks = {"image_token_id": IMAGE, "video_token_id": 91, "vision_start_token_id": 92, "vision_end_token_id": 93}
    config = tf.Qwen3VLMoeConfig(text_config=text, vision_config=vision, **marks)
    model = tf.Qwen3VLMoeForConditionalGeneration(config).eval()
    model.set_experts_implementation("eager")
    ids = torch.arange(1, 25).view(2, 12)
    if not images:
        return model, {"input_ids": ids}
    ids[:, 2:6] = IMAGE
    pixels = torch.randn(2 * 16, 3 * 2 * 4 * 4)
    grid = torch.tensor([[1, 4, 4], [1, 4, 4]])
    kinds = (ids == IMAGE).int()
    return model, {"input_ids": ids, "pixel_values": pixels, "image_grid_thw": grid, "mm_token_type_ids": kinds}


# Attention over images of several sizes runs on data only: what cannot be looked for without it is told.
@pytest.mark.filterwarnings("ignore:operations without a rule", "ignore:constants that the forward derives")
@pytest.mark.parametrize("images", [False, True])
def test_routed_experts_of_the_text_part_go(images, tmp_path):
    model, inputs = model_and_inputs(images)
    original = copy.deepcopy(model)
    plan = mv.MoEPruner(model, inputs, pruning_ratio=0, ratios={"routed_experts": 0.5}).step()
    assert {cut.pruning_class.role for cut in plan.cuts} == {"routed_experts"}
    assert model.config.text_config.moe_intermediate_size == 20
    visual = [dict(m.model.visual.named_parameters()) for m in (original, model)]
    assert all(torch.equal(tensor, visual[1][name]) for name, tensor in visual[0].items())
    with float64_throughout(), torch.no_grad():
        wanted, got = _masked(original, plan).double(), copy.deepcopy(model).double()
        given = {n: t.double() if t.is_floating_point() else t for n, t in inputs.items()}
        a, b = (float_outputs(m(**given, use_cache=False))["logits"] for m in (wanted, got))
    assert float((a - b).abs().max() / a.abs().max()) < 1e-9
    model.save_pretrained(tmp_path)
    again = tf.Qwen3VLMoeForConditionalGeneration.from_pretrained(tmp_path, experts_implementation="eager").eval()
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)


def _masked(original, plan):
    """The original with what the plan removes held at zero."""
    masked = copy.deepcopy(original)
    tensors = dict(masked.named_parameters())
    for (name, dim), kept in plan.keep.items():
        for expert, row in enumerate(torch.as_tensor(kept)):
            gone = torch.ones(tensors[name].shape[dim], dtype=torch.bool)
            gone[row] = False
            tensors[name].data[expert].movedim(dim - 1, 0)[gone] = 0.0
    return masked


def test_images_that_no_input_shows_leave_shared_channels_alone():
    model, inputs = model_and_inputs(images=False)
    before = {name: tuple(p.shape) for name, p in model.model.visual.named_parameters()}
    with pytest.warns(UserWarning, match=r"hidden is left alone, .*visual.* was not used by the example input"):
        plan = mv.MoEPruner(model, inputs, pruning_ratio=0.5).step()
    assert "hidden" in {entry["role"] for entry in plan.left_alone}
    assert {name: tuple(p.shape) for name, p in model.model.visual.named_parameters()} == before
    assert model.config.text_config.hidden_size == 32
