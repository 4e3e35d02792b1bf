"""The guide's call on checkpoints, and dense models on which stock Torch-Pruning never ends."""

import pytest
import torch
import torch_pruning as tp
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

import moeverify as mv
from moeverify.pruning.graph.walk import GUARDS

IDS = torch.arange(64).view(2, 32)
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_guide_call_word_for_word(dtype, tmp_path):
    pytest.importorskip("accelerate", reason="accelerate is not installed; `tox run -e tests` installs it")
    torch.manual_seed(0)
    MixtralForCausalLM(MixtralConfig(num_local_experts=4, **SIZES)).save_pretrained(tmp_path / "base")

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=dtype, device_map="auto")
    example_inputs = {"input_ids": torch.randint(0, 96, (1, 16))}
    imp = tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean")
    pruner = mv.MoEPruner(
        model,
        example_inputs=example_inputs,
        importance=imp,
        global_pruning=False,
        output_transform=lambda x: x.logits,
        pruning_ratio=0.5,
        ignored_layers=[model.lm_head],
        round_to=4,
    )
    pruner.step()

    assert all(p.dtype == dtype for p in model.parameters())
    assert (model.config.hidden_size, model.config.intermediate_size) == (32, 48)
    logits = model(IDS).logits
    model.save_pretrained(tmp_path / "pruned")
    again, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "pruned", dtype=dtype, device_map="auto", output_loading_info=True
    )
    assert not any(info.values())
    assert torch.equal(again(IDS).logits, logits)


def dense(kind, **more):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES, **more)).eval()


def layers_in(graph, group):
    names = {graph.name_of(dep.target.module) for dep, _ in group}
    return {name.removeprefix("model.layers.0.") for name in names}


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_groups_where_stock_hangs(kind):
    model = dense(kind, **({"head_dim": 8} if kind == "qwen3" else {}))
    graph = mv.MoEDependencyGraph().build_dependency(model, {"input_ids": IDS})
    layer = model.model.layers[0]
    mlp = graph.get_pruning_group(layer.mlp.gate_proj, tp.prune_linear_out_channels, [5])
    assert layers_in(graph, mlp) == {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
    heads = graph.get_pruning_group(layer.self_attn.k_proj, tp.prune_linear_out_channels, [3])
    removed = {place: gone.tolist() for place, gone in heads.removed().items()}
    attention = "model.layers.0.self_attn"
    assert removed[f"{attention}.k_proj.weight", 0] == removed[f"{attention}.v_proj.weight", 0] == list(range(8))
    assert removed[f"{attention}.q_proj.weight", 0] == removed[f"{attention}.o_proj.weight", 1] == list(range(32))
    hidden = graph.get_pruning_group(layer.mlp.down_proj, tp.prune_linear_out_channels, [7])
    assert {dep.target.module for dep, _ in hidden} >= {
        model.model.embed_tokens,
        model.lm_head,
        layer.self_attn.q_proj,
        layer.self_attn.o_proj,
        model.model.norm.weight,
    }
    assert graph.expansions < 500


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_dense_models_are_pruned_and_reloaded(kind, tmp_path):
    model = dense(kind, **({"head_dim": 8} if kind == "qwen3" else {}))
    mv.MoEPruner(model, {"input_ids": IDS}, pruning_ratio=0.5, ignored_layers=[model.lm_head]).step()
    config = model.config
    assert (config.hidden_size, config.intermediate_size, config.num_attention_heads) == (32, 48, 4)
    logits = model(IDS).logits
    model.save_pretrained(tmp_path)
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(again(IDS).logits, logits)


def vit():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, **sizes)).eval()


def test_a_vision_transformer_is_pruned(tmp_path):
    model = vit()
    image = {"pixel_values": torch.randn(1, 3, 32, 32)}
    graph = mv.MoEDependencyGraph().build_dependency(model, image)
    roles = sorted(c.role for c in graph.classes)
    assert roles.count("heads") == 2
    hidden = graph.get_pruning_group(model.classifier, tp.prune_linear_in_channels, [3])
    names = {name for name, _ in hidden.removed()}
    assert {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings", "classifier.weight"} <= names
    mv.MoEPruner(model, image, pruning_ratio=0.5, ignored_layers=[model.classifier]).step()
    logits = model(**image).logits
    assert model.config.hidden_size == 16
    model.save_pretrained(tmp_path)
    assert torch.equal(ViTForImageClassification.from_pretrained(tmp_path)(**image).logits, logits)


def test_torch_prunings_own_example_for_vision_transformers():
    model = vit()
    num_heads = {}
    for module in model.modules():
        if hasattr(module, "q_proj"):
            num_heads.update(dict.fromkeys((module.q_proj, module.k_proj, module.v_proj), 4))
    assert len(num_heads) == 6
    pruner = mv.MoEPruner(
        model,
        {"pixel_values": torch.randn(1, 3, 32, 32)},
        global_pruning=False,
        importance=tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean"),
        pruning_ratio=0.5,
        ignored_layers=[],
        output_transform=lambda out: out.logits.sum(),
        num_heads=num_heads,
        prune_head_dims=False,
        prune_num_heads=True,
        head_pruning_ratio=0.5,
    )
    pruner.step()
    assert set(pruner.num_heads.values()) == {2}
    assert (model.config.hidden_size, model.config.num_attention_heads) == (16, 2)
    assert model(torch.randn(1, 3, 32, 32)).logits.shape == (1, 2)  # not ignored, yet the model's own outputs


def test_residual_network_gives_stocks_groups():
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[1, 2], layer_type="basic")
    model = ResNetForImageClassification(config).eval()
    image = torch.randn(1, 3, 32, 32)
    stock = tp.DependencyGraph().build_dependency(model, image, output_transform=lambda out: out.logits)
    ours = mv.MoEDependencyGraph().build_dependency(model, image, output_transform=lambda out: out.logits)

    def has_weights(target):
        return isinstance(target, torch.nn.Module) and next(target.parameters(), None) is not None

    def members(graph, group):
        for dep, idxs in group:
            target = dep.target.module
            if has_weights(target):
                side = graph.is_out_channel_pruning_fn(dep.handler)
                yield graph._module2name[target], side, tuple(sorted(idxs))

    def groups(graph):
        ignored = [model.classifier[1]]
        return {frozenset(members(graph, group)) for group in graph.get_all_groups(ignored_layers=ignored)}

    assert groups(ours) == groups(stock)


def test_transparent_operations_are_most_of_a_model():
    model = AutoModel.from_config(AutoConfig.for_model("llama", **SIZES)).eval()
    steps = []
    for guards in (GUARDS, GUARDS - {"transparent"}):
        graph = mv.MoEDependencyGraph(guards=guards).build_dependency(model, {"input_ids": IDS})
        graph.get_pruning_group(model.layers[0].mlp.down_proj, tp.prune_linear_out_channels, [0])
        steps.append(graph.expansions)
    assert steps[0] == 1
    assert steps[1] > 50


@pytest.mark.parametrize("left_out", [False, True])
def test_configuration_follows_groups_pruned_one_by_one(left_out, tmp_path):
    torch.manual_seed(0)
    model = MixtralForCausalLM(MixtralConfig(num_local_experts=4, **SIZES)).eval()
    pruner = mv.MoEPruner(model, {"input_ids": IDS}, pruning_ratio=0.5, ignored_layers=[model.lm_head])
    for group in pruner.step(interactive=True):
        layers = {dep.target.module for dep, _ in group}
        if not (left_out and model.lm_head in layers):  # the hidden channels
            group.prune()
    assert model.config.hidden_size == (64 if left_out else 32)
    assert (model.config.intermediate_size, model.config.num_attention_heads) == (48, 4)
    logits = model(IDS).logits
    model.save_pretrained(tmp_path)
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(again(IDS).logits, logits)


def test_history_with_experts_that_lost_channels_of_their_own():
    torch.manual_seed(0)
    model = MixtralForCausalLM(MixtralConfig(num_local_experts=4, **SIZES)).eval()
    other = MixtralForCausalLM(model.config).eval()
    other.load_state_dict(model.state_dict())
    pruner = mv.MoEPruner(model, {"input_ids": IDS}, pruning_ratio=0.25, ratios={"hidden": 0, "heads": 0})
    pruner.step()
    history = pruner.pruning_history()
    assert len({tuple(lost) for lost in history[0][2]}) == 4
    graph = mv.MoEDependencyGraph().build_dependency(other, {"input_ids": IDS})
    graph.load_pruning_history(history)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_iterative_steps_with_a_configuration(tmp_path):
    torch.manual_seed(0)
    model = MixtralForCausalLM(MixtralConfig(num_local_experts=4, **SIZES)).eval()
    pruner = mv.MoEPruner(
        model, {"input_ids": IDS}, pruning_ratio=0.5, iterative_steps=2, ignored_layers=[model.lm_head]
    )
    sizes = []
    for _ in range(2):
        pruner.step()
        model(IDS)
        sizes.append((model.config.hidden_size, model.config.intermediate_size, model.config.num_attention_heads))
    assert sizes[-1] == (32, 48, 4)
    assert sizes[0][0] == 48
    model.save_pretrained(tmp_path)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(IDS).logits, model(IDS).logits)
