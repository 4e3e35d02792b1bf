"""``camera`` against a twin that works token by token, for fused, transposed and listed experts, and by its name."""

import copy
import json

import pytest
import torch
import torch_pruning as tp
from torch import nn

import moeverify as mv
from moeverify.errors import PruningRefused, UsageError
from moeverify.models.zoo import build_zoo
from moeverify.pruning.choice.importances import importance_named

IDS = torch.randint(0, 100, (2, 12), generator=torch.Generator().manual_seed(0))
BATCHES = [{"input_ids": IDS}, {"input_ids": IDS.flip(1)[:1]}]


def twin(model, layer, act, peak=0.9):
    """Scores ``[experts, channels]`` of a mixtral-like block, with the routing weights that its experts are called
    with."""
    experts = model.model.layers[layer].mlp.experts
    calls = []
    handle = experts.register_forward_pre_hook(lambda _, args: calls.append(args))
    with torch.no_grad():
        for batch in BATCHES:
            model(**batch)
    handle.remove()
    found = []
    for expert in range(experts.down_proj.shape[0]):
        values = []
        for hidden, index, weights in calls:
            for token in range(len(hidden)):
                for choice in range(index.shape[1]):
                    if index[token, choice] == expert:
                        a = act(experts, expert, hidden[token])
                        values.append((weights[token, choice] * a).square().double())
        down = experts.down_proj[expert].double()
        norms = down.square().sum(0 if down.shape[1] == len(act(experts, expert, hidden[0])) else 1)
        total = sum(values, torch.zeros_like(norms))
        largest = torch.stack(values).amax(0) if values else total
        found.append(norms * ((1 - peak) * total + peak * largest))
    return torch.stack(found).detach()


def gated(experts, expert, x):
    gate, up = (experts.gate_up_proj[expert] @ x).chunk(2)
    return nn.functional.silu(gate) * up


def clamped(experts, expert, x):
    both = x @ experts.gate_up_proj[expert] + experts.gate_up_proj_bias[expert]
    gate, up = both[::2].clamp(max=experts.limit), both[1::2].clamp(-experts.limit, experts.limit)
    return (up + 1) * gate * torch.sigmoid(gate * experts.alpha)


def classes(model, inputs):
    return mv.MoEDependencyGraph().build_dependency(model, inputs).classes


@pytest.mark.parametrize(("name", "act"), [("mixtral", gated), ("qwen3_moe", gated), ("gpt_oss", clamped)])
def test_fused_experts_score_as_token_by_token(name, act):
    model = build_zoo(name)
    importance = mv.CameraImportance(model, BATCHES)
    routed = [c for c in classes(model, {"input_ids": IDS}) if c.role == "routed_experts"]
    layers = [n for n, layer in enumerate(model.model.layers) if hasattr(layer.mlp, "experts")]
    for pruning_class, layer in zip(routed, layers, strict=True):
        found, wanted = importance.score_class(pruning_class), twin(model, layer, act)
        assert found.shape == wanted.shape
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-9 * float(wanted.max()))


class Expert(nn.Module):
    def __init__(self, hidden, inner):
        super().__init__()
        self.up_proj, self.down_proj = nn.Linear(hidden, inner), nn.Linear(inner, hidden)

    def forward(self, x):
        return self.down_proj(torch.relu(self.up_proj(x)))


class Listed(nn.Module):
    """Top-1 over listed experts of unequal width, weighted in place, beside a shared expert with a gate."""

    def __init__(self, sizes=(3, 5, 4), hidden=6):
        super().__init__()
        self.gate = nn.Linear(hidden, len(sizes), bias=False)
        self.experts = nn.ModuleList(Expert(hidden, size) for size in sizes)
        self.shared_expert, self.shared_expert_gate = Expert(hidden, 4), nn.Linear(hidden, 1)

    def forward(self, x):
        weight, chosen = self.gate(x).softmax(-1).max(-1)
        out = self.shared_expert(x) * self.shared_expert_gate(x).sigmoid()
        for number, expert in enumerate(self.experts):
            mine = expert(x[chosen == number])
            mine *= weight[chosen == number, None]
            out = out.index_add(0, torch.where(chosen == number)[0], mine)
        return out


class Net(nn.Module):
    """The block between an embedding and a head, so that hidden channels are coupled."""

    def __init__(self):
        super().__init__()
        self.embed, self.mlp, self.head = nn.Linear(5, 6), Listed(), nn.Linear(6, 5)

    def forward(self, x):
        x = self.embed(x)
        return self.head(x + self.mlp(x))


def test_listed_and_shared_experts_score_as_token_by_token():
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(9, 5)
    importance = mv.CameraImportance(net, [x, x[:2]], peak=0.25)
    block, found = net.mlp, {c.where: importance.score_class(c) for c in classes(net, x)}
    values = {path: [] for path in ("mlp.experts.0", "mlp.experts.1", "mlp.experts.2", "mlp.shared_expert")}
    with torch.no_grad():
        for token in net.embed(torch.cat([x, x[:2]])):
            weight, chosen = block.gate(token).softmax(-1).max(-1)
            own = torch.relu(block.experts[int(chosen)].up_proj(token))
            values[f"mlp.experts.{int(chosen)}"].append((weight * own).square())
            shared = torch.relu(block.shared_expert.up_proj(token))
            values["mlp.shared_expert"].append((block.shared_expert_gate(token).sigmoid() * shared).square())
    for path, seen in values.items():
        norms = net.get_parameter(f"{path}.down_proj.weight").detach().square().sum(0)
        total = sum(seen, torch.zeros_like(norms))
        largest = torch.stack(seen).amax(0) if seen else total
        if seen:
            torch.testing.assert_close(found[path].float(), norms * (0.75 * total + 0.25 * largest))
    assert sum(map(len, values.values())) == 22


@pytest.mark.parametrize("name", ["axk1", "gemma4_text", "granitemoeshared", "dbrx", "llama4_text", "jetmoe"])
def test_norms_behind_the_experts_rows_and_weights_before_them(name):
    model = build_zoo(name)
    importance = mv.CameraImportance(model, BATCHES)
    for pruning_class in classes(model, {"input_ids": IDS}):
        scores = importance.score_class(pruning_class)
        if pruning_class.role in ("routed_experts", "shared_experts"):
            assert scores.shape[-1] == pruning_class.coupling.size
            assert bool((scores.sum(-1) > 0).any())
            assert scores.isfinite().all()
        else:
            assert scores is None


def test_the_model_is_left_as_it_was():
    model = build_zoo("qwen2_moe").train()
    model.model.embed_tokens.weight.requires_grad_(False)
    before = copy.deepcopy(model)
    mv.CameraImportance(model, BATCHES)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))
    assert not model.model.embed_tokens.weight.requires_grad
    assert all(m.training for m in model.modules())
    assert not any("forward" in vars(m) for m in model.modules())
    assert model.config._experts_implementation == before.config._experts_implementation


def test_the_pruner_keeps_the_channels_of_most_energy():
    model = build_zoo("mixtral")
    importance = mv.CameraImportance(model, BATCHES)
    pruner = mv.MoEPruner(
        model, {"input_ids": IDS}, importance=importance, ratios={"routed_experts": 0.5}, pruning_ratio=0.0
    )
    cuts = pruner.plan().cuts
    assert len(cuts) == model.config.num_hidden_layers
    for cut in cuts:
        scores = importance.score_class(cut.pruning_class)
        best = scores.topk(cut.after, dim=-1).indices.sort(dim=-1).values
        assert torch.equal(torch.as_tensor(cut.kept), best)


def test_by_name_it_gets_the_data_of_the_pruner():
    model, inputs = build_zoo("mixtral"), {"input_ids": IDS}
    given = {"ratios": {"routed_experts": 0.5}, "pruning_ratio": 0.0}
    by_name = mv.MoEPruner(model, inputs, importance=importance_named("camera"), calibration=BATCHES, **given)
    by_hand = mv.MoEPruner(model, inputs, importance=mv.CameraImportance(model, BATCHES), **given)
    for one, other in zip(by_name.plan().cuts, by_hand.plan().cuts, strict=True):
        assert (one.kept == other.kept).all()
    with pytest.raises(UsageError, match="camera ranks channels by data"):
        mv.MoEPruner(model, inputs, importance=importance_named("camera"), **given)
    with pytest.raises(UsageError, match="only the subject moe passes it on"):
        importance_named("routing")(None)


def test_what_cannot_be_meant_is_refused():
    model = build_zoo("mixtral")
    with pytest.raises(UsageError, match="no calibration batch"):
        mv.CameraImportance(model, [])
    with pytest.raises(UsageError, match="peak is the share"):
        mv.CameraImportance(model, BATCHES, peak=2)
    with pytest.raises(UsageError, match="no MoE layer"):
        mv.CameraImportance(nn.Linear(2, 2), [torch.ones(1, 2)])
    importance = mv.CameraImportance(model, BATCHES)
    importance._energies.by_place.clear()
    routed = next(c for c in classes(model, {"input_ids": IDS}) if c.role == "routed_experts")
    with pytest.raises(PruningRefused, match="were not seen"):
        importance.score_class(routed)


@pytest.mark.slow
def test_verify_takes_it_with_a_file_of_data(tmp_path):
    data = tmp_path / "ids.jsonl"
    data.write_text("\n".join(json.dumps({"input_ids": row}) for row in IDS.tolist()))
    result = mv.verify(
        "zoo:mixtral",
        ratios={"routed_experts": 0.5},
        pruning_ratio=0.25,
        importance="camera",
        calibration=data,
        calibration_length=12,
        checks=["terminates", "masked-equivalence"],
    )
    assert result.ok, [v.message for v in result.verdicts]
    with pytest.raises(UsageError, match="--importance camera ranks channels by data"):
        mv.verify("zoo:mixtral", importance="camera", checks=["terminates"])


def test_base_scores_what_lies_outside_of_experts():
    model = build_zoo("mixtral")
    importance = mv.CameraImportance(model, BATCHES, base=tp.importance.GroupMagnitudeImportance(p=1))
    pruner = mv.MoEPruner(model, {"input_ids": IDS}, importance=importance, pruning_ratio=0.25)
    pruner.step()
    with torch.no_grad():
        assert model(IDS).logits.isfinite().all()
