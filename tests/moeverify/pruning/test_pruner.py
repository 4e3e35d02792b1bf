"""The guide's basic call on real modelling code, and what the pruner refuses."""

import pytest
import torch
import torch_pruning as tp
from everyday import everyday
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

import moeverify as mv
from moeverify.errors import PruningRefused, UsageError
from moeverify.pruning.choice.rounding import kept_units

TYPES = {
    "mixtral": {"intermediate_size": 32, "num_local_experts": 4},
    "qwen2_moe": {
        "intermediate_size": 48,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "mlp_only_layers": [0],
    },
    "qwen3_moe": {
        "intermediate_size": 48,
        "moe_intermediate_size": 32,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "head_dim": 16,
        "mlp_only_layers": [1],
    },
}
IDS = torch.arange(64).view(2, 32)


def build(kind, **more):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=96,
        **TYPES[kind],
        **more,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def guide_call(model, ratio=0.5):
    return mv.MoEPruner(
        model,
        example_inputs={"input_ids": IDS},
        importance=tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean"),
        global_pruning=False,
        output_transform=lambda x: x.logits,
        pruning_ratio=ratio,
        ignored_layers=[model.lm_head],
        round_to=4,
    )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("ratio", everyday([0.25, 0.5], {0.25}))
@pytest.mark.parametrize("kind", TYPES)
def test_basic_call_saves_and_reloads(kind, ratio, tied, tmp_path):
    model = build(kind, tie_word_embeddings=tied)
    guide_call(model, ratio).step()
    assert model.config.hidden_size == int(64 * (1 - ratio)) == model.model.embed_tokens.weight.shape[1]
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    experts = next(m for m in model.modules() if type(m).__name__.endswith("Experts"))
    assert experts.down_proj.shape == (4, model.config.hidden_size, int(32 * (1 - ratio)))
    logits = model(IDS).logits
    model.save_pretrained(tmp_path)
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(again(IDS).logits, logits)


def test_each_fused_expert_keeps_its_own_channels():
    model = build("qwen3_moe")
    with torch.no_grad():
        experts = model.model.layers[0].mlp.experts
        experts.down_proj[0, :, :16] *= 100
        experts.down_proj[1, :, 16:] *= 100
    plan = guide_call(model).step()
    kept = plan.keep["model.layers.0.mlp.experts.down_proj", 2]
    assert kept[0].tolist() == list(range(16))
    assert kept[1].tolist() == list(range(16, 32))
    gate_up = plan.keep["model.layers.0.mlp.experts.gate_up_proj", 1]
    assert gate_up[1].tolist() == [*range(16, 32), *range(48, 64)]


@pytest.mark.parametrize(
    "importance",
    [
        tp.importance.RandomImportance(),
        tp.importance.GroupMagnitudeImportance(p=1, group_reduction="max"),
        tp.importance.LAMPImportance(),
        tp.importance.GroupTaylorImportance(),
    ],
    ids=lambda i: type(i).__name__,
)
def test_importances_of_torch_pruning_rank_a_transformers_model(importance):
    model = build("mixtral")
    model(IDS, labels=IDS).loss.backward()
    mv.MoEPruner(model, {"input_ids": IDS}, importance=importance, pruning_ratio=0.25).step()
    assert model(IDS).logits.isfinite().all()
    assert all(p.requires_grad and (p.grad is None or p.grad.shape == p.shape) for p in model.parameters())


def test_ratios_by_role():
    model = build("qwen2_moe")
    ratios = {"hidden": 0.0, "heads": 0.0, "shared_experts": 0.0, "dense_mlp": 0.25}
    plan = mv.MoEPruner(model, {"input_ids": IDS}, pruning_ratio=0.5, ratios=ratios).step()
    assert {c.pruning_class.role: c.after for c in plan.cuts} == {"routed_experts": 16, "dense_mlp": 36}


@pytest.mark.parametrize("ratio", [0, 1, -0.5, 1.5, "half"])
def test_ratio_out_of_range(ratio):
    with pytest.raises(UsageError, match="between 0 and 1"):
        mv.MoEPruner(build("mixtral"), {"input_ids": IDS}, pruning_ratio=ratio)


def test_refusals_change_nothing():
    model = build("qwen3_moe")
    before = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(PruningRefused, match="no fewer are a multiple of round_to=64"):
        mv.MoEPruner(model, {"input_ids": IDS}, pruning_ratio=0.5, round_to=64, ratios={"heads": 0}).step()
    layer_one = [model.model.layers[0].mlp]  # one layer's experts keep their size: no scalar entry can say so
    asked = {"hidden": 0, "routed_experts": 0.5}
    with pytest.raises(PruningRefused, match="no values of moe_intermediate_size in Qwen3MoeConfig"):
        mv.MoEPruner(model, {"input_ids": IDS}, pruning_ratio=0.5, ignored_layers=layer_one, ratios=asked).step()
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in before.items()}
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_what_no_entry_can_say_is_left_alone_by_name():
    model = build("qwen3_moe")
    ignored = [model.model.layers[0].mlp]
    with pytest.warns(UserWarning, match=r"routed_experts of model.layers.2.mlp.experts is left alone"):
        plan = mv.MoEPruner(
            model, {"input_ids": IDS}, pruning_ratio=0.5, ignored_layers=ignored, ratios={"hidden": 0}
        ).step()
    assert {c.pruning_class.role for c in plan.cuts} == {"heads", "dense_mlp"}
    assert "moe_intermediate_size" in str(plan.adjustments[0])


class HardCoded(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.b(self.a(x).view(-1, 6))


HARD_CODED = HardCoded.forward.__code__.co_firstlineno + 1


def test_size_written_into_forward_is_refused():
    model = HardCoded()
    where = rf"nothing can be pruned: other: the forward does not run .*test_pruner\.py:{HARD_CODED}"
    with pytest.raises(PruningRefused, match=where):
        mv.MoEPruner(model, torch.randn(3, 4), pruning_ratio=0.5).step()
    assert model.a.weight.shape == (6, 4)


def test_group_as_torch_pruning_users_know_it():
    model = build("qwen2_moe")
    graph = mv.MoEDependencyGraph().build_dependency(model, {"input_ids": IDS})
    mlp = model.model.layers[0].mlp
    group = graph.get_pruning_group(mlp.gate_proj, tp.prune_linear_out_channels, [3, 5])
    assert {(d.target.module, d.handler, tuple(i)) for d, i in group} == {
        (mlp.gate_proj, tp.prune_linear_out_channels, (3, 5)),
        (mlp.up_proj, tp.prune_linear_out_channels, (3, 5)),
        (mlp.down_proj, tp.prune_linear_in_channels, (3, 5)),
    }
    assert graph.boundary("model.layers.1.mlp.experts.down_proj") == "model.layers.1.mlp.experts"
    assert graph.boundary("model.layers.1.mlp.shared_expert") is None


def test_expansion_overflow_warns_and_yields_no_group():
    model = build("mixtral")
    pruner = mv.MoEPruner(model, {"input_ids": IDS}, max_expansions=3)
    with (
        pytest.warns(UserWarning, match="^Dependency expansion overflow"),
        pytest.raises(PruningRefused, match="max_expansions=3"),
    ):
        pruner.step()
    assert pruner.DG.overflowed


@pytest.mark.parametrize(
    ("size", "ratio", "round_to", "kept"), [(32, 0.5, None, 16), (30, 0.25, 4, 20), (10, 0.1, None, 9)]
)
def test_units_kept_at_a_ratio_and_a_multiple(size, ratio, round_to, kept):
    assert kept_units(size, ratio, round_to) == kept
