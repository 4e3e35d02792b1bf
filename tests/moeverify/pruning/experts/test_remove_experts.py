"""A model without some experts computes what it did with them never chosen; it can be saved, loaded and made again."""

import copy
import json

import pytest
import torch
from releases import needs
from small_nets import TinyMoE, build
from torch import nn
from transformers import AutoModelForCausalLM

import moeverify as mv
from moeverify.errors import PruningRefused, UsageError
from moeverify.models.zoo import build_zoo
from moeverify.pruning.checkpoint.checkpoint import apply_plan_file, prune_checkpoint

IDS = {"input_ids": torch.arange(24).reshape(2, 12)}
KEPT = {"mixtral": [0, 2], "gpt_oss": [1, 3], "dbrx": [0, 3], "gemma4_text": [1, 2]}


def ranked(kept):
    """A criterion that keeps these experts."""

    def score(evidence):
        scores = torch.zeros(len(evidence.weights.flat))
        scores[list(kept)] = 1.0
        return scores

    return score


def never_chosen(router, gone):
    """Scores of some experts at minus infinity before selection, by a bias that the router gets for it."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.router = router

        def forward(self, x):
            return self.router(x).index_fill(-1, torch.tensor(gone), float("-inf"))

    return Masked()


def test_listed_experts_and_their_router():
    model = build(TinyMoE, blocks=2, experts=5, shared=10)
    tokens = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    expected = copy.deepcopy(model)
    for layer in expected.layers:
        layer.gate = never_chosen(layer.gate, [0, 3])
    shared = copy.deepcopy(model.layers[0].shared_expert.state_dict())
    plan = mv.MoEPruner(model, tokens, ratios={"experts": 0.4}, expert_criterion=ranked([1, 2, 4])).step()
    assert [cut.kept.tolist() for cut in plan.experts] == [[1, 2, 4]] * 2
    assert [len(layer.experts) for layer in model.layers] == [3, 3]
    assert torch.allclose(model(tokens), expected(tokens), atol=1e-6)
    assert all(torch.equal(model.layers[0].shared_expert.state_dict()[k], v) for k, v in shared.items())


def test_channels_stay_as_they_are_unless_they_are_asked_for():
    tokens = torch.randn(12, 5)
    alone = build(TinyMoE, experts=4)
    mv.MoEPruner(alone, tokens, ratios={"experts": 0.5}).step()
    assert {e.up_proj.out_features for e in alone.layers[0].experts} == {6}
    both = build(TinyMoE, experts=4, inner=8)
    mv.MoEPruner(both, tokens, pruning_ratio=0.5, ratios={"experts": 0.5}).step()
    assert [e.up_proj.out_features for e in both.layers[0].experts] == [4, 4]
    assert both.embed.out_features == 4
    nothing = build(TinyMoE, experts=4)
    mv.MoEPruner(nothing, tokens, ratios={"experts": 0}, pruning_ratio=0.5).step()
    assert len(nothing.layers[0].experts) == 4


class Stacks(nn.Module):
    """Fused experts that a loop over an attribute runs, without configuration."""

    def __init__(self, hidden=7, inner=5, experts=6):
        super().__init__()
        self.gate = nn.Linear(hidden, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, inner, hidden) / 2)
        self.down = nn.Parameter(torch.randn(experts, hidden, inner) / 2)
        self.scale = nn.Parameter(torch.rand(experts) + 0.5)
        self.e, self.k = experts, 2

    def forward(self, x):
        weights, chosen = self.gate(x).softmax(-1).topk(self.k, dim=-1)
        out = torch.zeros_like(x)
        for number in range(self.e):
            rows, slot = (chosen == number).nonzero(as_tuple=True)
            one = torch.relu(x[rows] @ self.up[number].T) @ self.down[number].T * self.scale[number]
            out = out.index_add(0, rows, one * weights[rows, slot, None])
        return x + out


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.block, self.head = nn.Linear(4, 7), Stacks(), nn.Linear(7, 3)

    def forward(self, x):
        return self.head(self.block(self.embed(x)))


def test_fused_experts_without_configuration():
    model, tokens = build(Tower), torch.randn(50, 4)
    expected = copy.deepcopy(model)
    expected.block.gate = never_chosen(expected.block.gate, [1, 2, 5])
    mv.MoEPruner(model, tokens, ratios={"experts": 0.5}, expert_criterion=ranked([0, 3, 4])).step()
    assert [tuple(p.shape) for p in model.block.parameters()] == [(3, 5, 7), (3, 7, 5), (3,), (3, 7)]
    assert model.block.e == 3
    assert torch.allclose(model(tokens), expected(tokens), atol=1e-6)


@pytest.mark.parametrize("model_type", KEPT)
def test_values_and_configuration_of_transformers_models(model_type, tmp_path):
    needs(model_type)
    model = build_zoo(model_type)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept = KEPT[model_type]
    plan = mv.MoEPruner(model, IDS, ratios={"experts": 0.5}, expert_criterion=ranked(kept)).step()
    for name, tensor in model.state_dict().items():
        old = before[name]
        for dim, (a, b) in enumerate(zip(old.shape, tensor.shape, strict=True)):
            if a != b:  # expert-major: the kept experts' positions, whatever each of them holds
                old = old.unflatten(dim, (4, -1)).index_select(dim, torch.tensor(kept)).flatten(dim, dim + 1)
        assert torch.equal(tensor, old), name
    assert set(plan.entries.values()) == {2}
    model.save_pretrained(tmp_path)
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True, attn_implementation="eager")
    assert not any(info.values())
    torch.testing.assert_close(again.eval()(**IDS).logits, model(**IDS).logits, rtol=0, atol=1e-5)


def test_together_with_channels_heads_and_hidden(tmp_path):
    model = build_zoo("qwen3_moe")
    ratios = {"experts": 0.5, "routed_experts": 0.25, "hidden": 0.5, "heads": 0.5}
    plan = mv.MoEPruner(model, IDS, pruning_ratio=0.0, ratios=ratios, ignored_layers=[model.lm_head], round_to=4).step()
    assert model.model.layers[0].mlp.experts.gate_up_proj.shape == (2, 2 * 24, 32)
    assert model.model.layers[0].mlp.experts.down_proj.shape == (2, 32, 24)
    assert model.config.num_experts == 2
    assert {cut.pruning_class.role for cut in plan.cuts} == {"routed_experts", "hidden", "heads"}
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert torch.equal(again(**IDS).logits, model(**IDS).logits)


def test_entries_under_every_name_say_the_new_count(tmp_path):
    model = build_zoo("qwen3_moe")
    mv.MoEPruner(model, IDS, ratios={"experts": 0.25}).step()
    model.save_pretrained(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    assert {data[name] for name in ("num_experts", "num_local_experts", "n_routed_experts") if name in data} == {3}


@pytest.mark.slow
def test_a_plan_makes_the_same_checkpoint_again(tmp_path):
    needs("deepseek_v4")
    model = build_zoo("deepseek_v4")
    model.save_pretrained(tmp_path / "base")
    first = prune_checkpoint(str(tmp_path / "base"), tmp_path / "one", ratios={"experts": 0.5})
    document = json.loads((tmp_path / "one" / "pruning_plan.json").read_text())
    assert [cut["kept"].count(",") + cut["kept"].count("-") for cut in document["experts"]] == [1, 1, 1]
    assert document["experts"][0]["tables"] == ["model.layers.0.mlp.gate.tid2eid"]
    second = apply_plan_file(tmp_path / "one" / "pruning_plan.json", str(tmp_path / "base"), tmp_path / "two")
    for name in ("config.json", "model.safetensors"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()


def test_a_router_that_divides_by_the_count_is_refused():
    model = build_zoo("mixtral")
    type_ = type(model.model.layers[0].mlp)
    before = type_.__init__

    def init(self, config):
        before(self, config)
        self.temperature = 1.0 / config.num_local_experts

    type_.__init__ = init
    try:
        again = type(model)(model.config).eval()
        with pytest.raises(PruningRefused, match=r"mlp\.temperature is derived from the number of experts"):
            mv.MoEPruner(again, IDS, ratios={"experts": 0.5}).step()
    finally:
        type_.__init__ = before


def test_a_dense_model_has_no_experts_to_remove():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with pytest.raises(PruningRefused, match="the model has no MoE layer"):
        mv.MoEPruner(model, torch.randn(3, 4), ratios={"experts": 0.5}).step()


def test_ratios_outside_the_range():
    with pytest.raises(UsageError, match=r"the ratio of experts must lie in \[0, 1\), not 1"):
        mv.MoEPruner(build(TinyMoE), torch.randn(3, 5), ratios={"experts": 1})


def test_ignored_layers_keep_their_experts():
    model, tokens = build(TinyMoE, blocks=2, experts=4), torch.randn(12, 5)
    pruner = mv.MoEPruner(model, tokens, ratios={"experts": 0.5}, ignored_layers=[model.layers[0].gate])
    pruner.step()
    assert [len(layer.experts) for layer in model.layers] == [4, 2]
    linked = build_zoo("mixtral")
    with pytest.raises(PruningRefused, match="counts for both"):
        mv.MoEPruner(linked, IDS, ratios={"experts": 0.5}, ignored_layers=[linked.model.layers[0].mlp]).step()
