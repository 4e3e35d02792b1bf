"""Every importance of Torch-Pruning on listed and on fused experts."""

import copy

import pytest
import torch
import torch_pruning as tp
from small_nets import TinyMoE, build
from torch import nn
from torch_pruning.pruner.importance import FPGMImportance, OBDCImportance
from transformers import MixtralConfig, MixtralForCausalLM

import moeverify as mv
from moeverify.errors import PruningRefused
from moeverify.pruning.choice import batches, parts, scores

TOKENS = torch.randn(24, 5, generator=torch.Generator().manual_seed(1))
IDS = torch.arange(64).view(2, 32)


def listed():
    return build(TinyMoE, inner=12), TOKENS


def fused():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = MixtralConfig(vocab_size=64, num_hidden_layers=2, num_local_experts=4, **sizes)
    return MixtralForCausalLM(config).eval(), {"input_ids": IDS}


def loss_of(model, inputs):
    output = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return getattr(output, "logits", output).square().flatten(1).mean(1)


def experts_shape(model):
    if isinstance(model, TinyMoE):
        return [e.up_proj.out_features for e in model.layers[0].experts]
    return [m.down_proj.shape[2] for m in model.modules() if type(m).__name__.endswith("Experts")]


IMPORTANCES = [
    tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean"),
    tp.importance.GroupMagnitudeImportance(p=1, group_reduction="max", normalizer="max"),
    tp.importance.GroupMagnitudeImportance(p=2, group_reduction="prod", normalizer="gaussian"),
    tp.importance.GroupMagnitudeImportance(p=2, group_reduction="first", bias=True),
    tp.importance.MagnitudeImportance(p=2, normalizer=None),
    tp.importance.RandomImportance(),
    tp.importance.LAMPImportance(),
    FPGMImportance(),
    tp.importance.GroupTaylorImportance(),
    tp.importance.GroupTaylorImportance(multivariable=True, bias=False),
    tp.importance.GroupHessianImportance(),
]


@pytest.mark.parametrize("make", [listed, fused])
@pytest.mark.parametrize("importance", IMPORTANCES, ids=lambda i: f"{type(i).__name__}-{getattr(i, 'p', '')}")
def test_an_importance_ranks_listed_and_fused_experts(importance, make):
    model, inputs = make()
    if isinstance(importance, tp.importance.GroupHessianImportance):
        importance.zero_grad()
        for loss in loss_of(model, inputs)[:2]:
            model.zero_grad()
            loss.backward(retain_graph=True)
            importance.accumulate_grad(model)
    else:
        loss_of(model, inputs).mean().backward()
    before = experts_shape(model)
    mv.MoEPruner(model, inputs, importance=importance, pruning_ratio=0.5).step()
    assert experts_shape(model) == [width // 2 for width in before]
    assert loss_of(model, inputs).isfinite().all()
    assert all(p.grad is None or p.grad.shape == p.shape for p in model.parameters())


@pytest.mark.parametrize("make", [listed, fused])
def test_obdc_ranks_listed_and_fused_experts(make):
    model, inputs = make()
    importance = OBDCImportance()
    roles = {"hidden": 0, "heads": 0, "shared_experts": 0}
    pruner = mv.MoEPruner(model, inputs, importance=importance, pruning_ratio=0.5, ratios=roles)
    if make is listed:
        importance._prepare_model(model, pruner)
    loss_of(model, inputs).mean().backward()
    importance.modules = [m for m in importance.modules if importance.DS.get(m) is not None]  # those that ran
    importance.step()
    gathered = len(importance.Fisher)
    importance._rm_hooks(model)
    before = experts_shape(model)
    pruner.step()
    assert experts_shape(model) == [width // 2 for width in before]
    assert bool(gathered) == (make is listed)


def test_magnitude_keeps_the_largest_of_each_expert():
    model, inputs = fused()
    with torch.no_grad():
        experts = model.model.layers[1].mlp.experts
        experts.down_proj[0, :, ::2] *= 50
        experts.down_proj[3, :, 1::2] *= 50
    plan = mv.MoEPruner(model, inputs, pruning_ratio=0.5).step()
    kept = plan.keep["model.layers.1.mlp.experts.down_proj", 2]
    assert kept[0].tolist() == list(range(0, 24, 2))
    assert kept[3].tolist() == list(range(1, 24, 2))


def test_fused_experts_score_as_the_same_listed_ones():
    model, inputs = fused()
    graph = mv.MoEDependencyGraph().build_dependency(model, inputs)
    from moeverify.pruning.choice.scores import score_units

    fused_class = next(c for c in graph.classes if c.experts)
    experts = model.get_submodule(fused_class.where)
    loss_of(model, inputs).mean().backward()
    for importance in (tp.importance.GroupMagnitudeImportance(p=1), tp.importance.GroupTaylorImportance()):
        scores = score_units(graph, fused_class, importance)
        for number in range(4):
            gate, up = experts.gate_up_proj[number].chunk(2)
            expert = nn.ModuleDict(
                {
                    "gate": nn.Linear(32, 24, bias=False),
                    "up": nn.Linear(32, 24, bias=False),
                    "down": nn.Linear(24, 32, bias=False),
                }
            )
            grads = (*experts.gate_up_proj.grad[number].chunk(2), experts.down_proj.grad[number])
            for layer, weight, grad in zip(expert.values(), (gate, up, experts.down_proj[number]), grads, strict=True):
                layer.weight = nn.Parameter(weight.detach().clone())
                layer.weight.grad = grad.clone()

            class Alone(nn.Module):
                def __init__(self, parts):
                    super().__init__()
                    self.parts = parts

                def forward(self, x):
                    return self.parts["down"](torch.sigmoid(self.parts["gate"](x)) * self.parts["up"](x))

            alone = mv.MoEDependencyGraph().build_dependency(Alone(expert), torch.randn(3, 32))
            (single,) = alone.classes
            assert torch.allclose(score_units(alone, single, importance), scores[number], rtol=1e-5)


def test_batch_norm_scale_ranks_a_network_with_norms():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([5.0, 0.1, 4.0, 0.2, 3.0, 0.3, 2.0, 0.4]))
    plan = mv.MoEPruner(model, torch.randn(1, 3, 8, 8), tp.importance.BNScaleImportance(), pruning_ratio=0.5).step()
    assert plan.keep["0.weight", 0].tolist() == [0, 2, 4, 6]
    experts, inputs = listed()
    with pytest.raises(PruningRefused, match="gives no score for"):
        mv.MoEPruner(experts, inputs, tp.importance.BNScaleImportance()).step()


def test_own_importance_sees_layers_and_indices():
    seen = []

    def importance(group):
        dep, idxs = group[0]
        seen.append((type(dep.target.module), dep.handler, len(idxs)))
        return torch.arange(len(idxs)).float()

    model, inputs = listed()
    plan = mv.MoEPruner(model, inputs, importance, pruning_ratio=0.5, ratios={"hidden": 0}).step()
    assert set(seen) == {(nn.Linear, tp.prune_linear_out_channels, 12), (nn.Linear, tp.prune_linear_out_channels, 10)}
    assert plan.keep["layers.0.experts.2.up_proj.weight", 0].tolist() == list(range(6, 12))


def test_state_of_the_model_is_left_as_it_was():
    model, inputs = fused()
    model.lm_head.weight = model.model.embed_tokens.weight
    model.config.tie_word_embeddings = True
    model.train()
    model.model.layers[0].eval()
    frozen = model.model.layers[1].self_attn.q_proj.weight.requires_grad_(False)
    calls = []
    model.model.norm.register_forward_hook(lambda *_: calls.append(1))
    identities = {name: id(p) for name, p in model.named_parameters()}
    trains = {name: p.requires_grad for name, p in model.named_parameters()}
    with torch.no_grad():
        mv.MoEPruner(model, inputs, pruning_ratio=0.5, ignored_layers=[]).step()
    assert {name: id(p) for name, p in model.named_parameters()} == identities
    assert not any(m.training for m in model.modules())  # as Torch-Pruning leaves it
    assert {name: p.requires_grad for name, p in model.named_parameters()} == trains
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not frozen.requires_grad
    calls.clear()
    model.eval()(**inputs)
    assert calls == [1]
    loss_of(model.train(), inputs).mean().backward()


@pytest.mark.parametrize("make", [listed, fused])
def test_training_goes_on_while_an_old_loss_is_alive(make):
    model, inputs = make()
    weight = next(model.parameters())
    calls = []
    weight.register_hook(lambda grad: calls.append(("gradient", grad.shape)))
    weight.register_post_accumulate_grad_hook(lambda parameter: calls.append(("accumulated", parameter.grad.shape)))
    loss = loss_of(model, inputs).mean()
    loss.backward()
    mv.MoEPruner(model, inputs, importance=tp.importance.GroupTaylorImportance(), pruning_ratio=0.5).step()
    assert all(p.grad is None or p.grad.shape == p.shape for p in model.parameters())
    model.zero_grad()
    calls.clear()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    loss_of(model, inputs).mean().backward()
    optimizer.step()
    assert calls == [("gradient", weight.shape), ("accumulated", weight.shape)]
    assert loss.isfinite()


def test_model_of_another_shape_than_traced_is_refused_whole():
    model, inputs = listed()
    pruner = mv.MoEPruner(model, inputs, pruning_ratio=0.5)
    graph = pruner.DG
    tp.prune_linear_out_channels(model.layers[0].experts[3].up_proj, list(range(9)))
    before = copy.deepcopy(model.state_dict())
    group = graph.get_pruning_group(model.layers[0].experts[3].gate_proj, tp.prune_linear_out_channels, [0])
    with pytest.raises(PruningRefused, match="changed after it was traced"):
        group.prune()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_scoring_copies_no_weight():
    stack = torch.randn(3, 4, 5)
    for dim in (1, 2):
        layer = parts.as_linear(stack, stack, dim)
        assert layer.weight.data_ptr() == stack.data_ptr()
        assert layer.weight.grad.data_ptr() == stack.data_ptr()
        assert (layer.out_features, layer.in_features) == (stack.shape[dim], stack.numel() // stack.shape[dim])


class Unknown(tp.importance.GroupMagnitudeImportance):
    def __call__(self, group):
        return super().__call__(group)


@pytest.mark.parametrize(("kind", "module"), [(tp.importance.GroupMagnitudeImportance, batches), (Unknown, scores)])
def test_a_class_over_two_devices_is_scored_device_by_device(monkeypatch, kind, module):
    model, inputs = fused()
    graph = mv.MoEDependencyGraph().build_dependency(model, inputs)
    hidden = next(c for c in graph.classes if c.role == "hidden")
    importance = kind(p=2, group_reduction="mean", normalizer=None)
    together = scores.score_units(graph, hidden, importance)
    turns = {}
    monkeypatch.setattr(
        module, "_device_of", lambda part: torch.device("cuda", turns.setdefault(id(part), len(turns)) % 2)
    )
    apart = scores.score_units(graph, hidden, importance)
    assert len(turns) > 2
    assert torch.allclose(apart, together, rtol=0.02)  # parts that the importance passes over are counted, too
