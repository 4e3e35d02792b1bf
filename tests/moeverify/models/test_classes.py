"""The class that a folder names is loaded, with inputs that it takes."""

import pytest
import torch
import transformers as tf

from moeverify.models.full_size import load_full_size
from moeverify.models.sources import load_source


def vision_language():
    text = {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 48,
        "moe_intermediate_size": 24,
        "num_hidden_layers": 1,
    }
    text |= {
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    }
    text |= {"rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True}}
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_heads": 2,
        "patch_size": 4,
        "out_hidden_size": 32,
    }
    vision |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    marks = {"image_token_id": 90, "video_token_id": 91, "vision_start_token_id": 92, "vision_end_token_id": 93}
    config = tf.Qwen3VLMoeConfig(text_config={**text, "pad_token_id": 0}, vision_config=vision, **marks)
    return tf.Qwen3VLMoeForConditionalGeneration(config)


def classifier():
    config = tf.Qwen3MoeConfig(vocab_size=96, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_labels=3)
    config.update(
        {
            "num_key_value_heads": 1,
            "head_dim": 16,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "pad_token_id": 0,
        }
    )
    return tf.Qwen3MoeForSequenceClassification(config)


def encoder_decoder():
    config = tf.SwitchTransformersConfig(vocab_size=96, d_model=32, d_kv=16, d_ff=24, num_layers=2, num_heads=2)
    config.num_experts = 4
    return tf.SwitchTransformersForConditionalGeneration(config)


@pytest.mark.parametrize("make", [vision_language, classifier, encoder_decoder])
def test_saved_and_loaded_as_it_is(make, tmp_path):
    torch.manual_seed(0)
    model = make().eval()
    model.save_pretrained(tmp_path)
    loaded = load_source(str(tmp_path))
    assert type(loaded.model) is type(model)
    assert all(torch.equal(loaded.model.state_dict()[name], value) for name, value in model.state_dict().items())
    with torch.no_grad():
        assert loaded.model(**loaded.example_inputs).logits.isfinite().all()
    assert type(load_full_size(str(tmp_path)).model) is type(model)


def test_every_weight_of_a_vision_tower_is_reached(tmp_path):
    torch.manual_seed(0)
    vision_language().save_pretrained(tmp_path)
    loaded = load_source(str(tmp_path))
    assert {"pixel_values", "image_grid_thw"} <= loaded.example_inputs.keys()
    assert (loaded.example_inputs["input_ids"] == 90).sum() == 2 * 4
    assert not (loaded.example_inputs["input_ids"] == 91).any()
    loaded.model(**loaded.example_inputs).logits.sum().backward()
    unreached = [n for n, p in loaded.model.named_parameters() if p.grad is None and "visual" in n]
    assert unreached == []
