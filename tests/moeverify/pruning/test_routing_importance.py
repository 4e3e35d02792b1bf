"""The importance that knows routing: against the sum that it estimates, and what it leaves alone."""

import copy

import pytest
import torch
import torch_pruning as tp
from torch import nn

import moeverify as mv
from moeverify.errors import UsageError
from moeverify.models.zoo import build_zoo
from moeverify.pruning.choice.routing_importance import RoutingImportance

IDS = torch.randint(0, 128, (4, 32), generator=torch.Generator().manual_seed(0))


def contributions(model, layer):
    """Sum over tokens of (routing weight x activation)^2, ``[experts, channels]``, from the module's own inputs."""
    experts = model.model.layers[layer].mlp.experts
    caught = {}
    handle = experts.register_forward_pre_hook(lambda _, args: caught.update(zip("hiw", args, strict=True)))
    with torch.no_grad():
        model(IDS)
    handle.remove()
    hidden, index, weights = caught["h"], caught["i"], caught["w"]
    sums = torch.zeros(experts.down_proj.shape[0], experts.down_proj.shape[2])
    for token, (chosen, weight) in enumerate(zip(index, weights, strict=True)):
        for expert, w in zip(chosen.tolist(), weight.tolist(), strict=True):
            gate, up = (experts.gate_up_proj[expert] @ hidden[token]).chunk(2)
            sums[expert] += (w * torch.nn.functional.silu(gate) * up).square()
    return sums.detach()


def test_estimates_the_routed_contribution_of_each_channel():
    model = build_zoo("mixtral")
    importance = RoutingImportance(model, [{"input_ids": IDS}], probes=16)
    for layer in range(2):
        name = f"model.layers.{layer}.mlp.experts.down_proj"
        exact = contributions(model, layer) * model.get_parameter(name).detach().square().sum(1)
        estimate = importance._squares[name, 2]
        assert estimate.shape == exact.shape
        assert ((estimate - exact).abs() / exact).mean() < 0.1  # 16 probes x 64 outputs: 4.4 % expected
        assert torch.corrcoef(torch.stack([estimate.flatten(), exact.flatten()]))[0, 1] > 0.98


def test_an_expert_never_chosen_and_a_dead_channel_score_nothing():
    model = build_zoo("mixtral")
    with torch.no_grad():
        mlp = model.model.layers[0].mlp
        mlp.gate.weight.zero_()  # ties: top-k takes two fixed experts
        mlp.experts.down_proj[:, :, 5] = 0
        mlp.experts.gate_up_proj[:, [5, 5 + mlp.experts.down_proj.shape[2]]] = 0
        hidden = torch.randn(3, mlp.gate.weight.shape[1])
    chosen = mlp.gate(hidden)[-1].unique().tolist()
    importance = RoutingImportance(model, [{"input_ids": IDS}])
    graph = mv.MoEDependencyGraph().build_dependency(model, {"input_ids": IDS})
    scores = next(importance.score_class(c) for c in graph.classes if c.role == "routed_experts" and ".0." in c.where)
    assert len(chosen) == 2
    for expert in range(len(scores)):
        assert bool(scores[expert].any()) == (expert in chosen)
    assert not scores[:, 5].any()


def test_the_model_is_left_as_it_was():
    model = build_zoo("qwen2_moe").train()
    model.model.embed_tokens.weight.requires_grad_(False)
    before = copy.deepcopy(model)
    RoutingImportance(model, [{"input_ids": IDS}, {"input_ids": IDS[:1]}], probes=1)
    for (name, p), old in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(p, old), name
        assert p.requires_grad == old.requires_grad
        assert p.grad is None
    assert all(m.training for m in model.modules())
    assert not any(m._forward_hooks for m in model.modules())


class Listed(nn.Module):
    """Top-1 routing over experts in a list, beside a shared expert."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        make = lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))  # noqa: E731
        self.gate, self.experts, self.shared_expert = nn.Linear(6, 3), nn.ModuleList(make() for _ in range(3)), make()

    def forward(self, x):
        choice = self.gate(x).softmax(-1)
        best = choice.argmax(-1)
        out = self.shared_expert(x)
        for number, expert in enumerate(self.experts):
            chosen = best == number
            out = out.index_put((chosen,), choice[chosen][:, number, None] * expert(x[chosen]), accumulate=True)
        return out


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp, self.head = Listed(), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.mlp(x))


def test_listed_experts_and_a_custom_model():
    model, x = Net(), torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    importance = RoutingImportance(model, [x], probes=64)
    with torch.no_grad():
        choice = model.mlp.gate(x).softmax(-1)
        for number, expert in enumerate(model.mlp.experts):
            chosen = choice.argmax(-1) == number
            hidden = expert[:2](x[chosen]) * choice[chosen][:, number, None]
            exact = hidden.square().sum(0) * expert[2].weight.square().sum(0)
            estimate = importance._squares[f"mlp.experts.{number}.2.weight", 1]
            assert torch.allclose(estimate, exact, rtol=0.5, atol=1e-3 * float(exact.max()))
    plan = mv.MoEPruner(model, x, importance=importance, pruning_ratio=0.5).step()
    assert {c.pruning_class.role for c in plan.cuts} >= {"routed_experts", "shared_experts"}
    assert model(x).isfinite().all()


def test_other_classes_go_to_the_base_importance():
    asked = []

    class Base(tp.importance.GroupMagnitudeImportance):
        def __call__(self, group):
            asked.append(len(group))
            return super().__call__(group)

    model = build_zoo("qwen3_moe")
    importance = RoutingImportance(model, [{"input_ids": IDS}], Base(p=2, group_reduction="mean"), probes=1)
    plan = mv.MoEPruner(model, {"input_ids": IDS}, importance=importance, pruning_ratio=0.25).step()
    assert asked
    assert "hidden" in {c.pruning_class.role for c in plan.cuts}
    assert model(IDS).logits.isfinite().all()


def test_missing_data_or_a_missing_moe_layer_is_a_usage_error():
    with pytest.raises(UsageError, match="no calibration batch"):
        RoutingImportance(build_zoo("mixtral"), [])
    with pytest.raises(UsageError, match="no MoE layer"):
        RoutingImportance(nn.Linear(2, 2), [torch.randn(1, 2)])


def test_experts_in_turn_are_scored_each_by_itself():
    model = build_zoo("dbrx")
    importance = RoutingImportance(model, [{"input_ids": IDS}])
    graph = mv.MoEDependencyGraph().build_dependency(model, {"input_ids": IDS})
    rows = next(c for c in graph.classes if c.experts)
    scores = importance.score_class(rows)
    squares = [importance._squares[m.parameter, 0].view(4, 56) for m in rows.coupling.members]
    assert len(squares) == 3
    assert torch.allclose(scores, torch.stack(squares).sum(0).sqrt())
