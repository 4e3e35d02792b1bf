"""Every criterion against a second implementation that works token by token, with the model's own routing weights."""

import math

import pytest
import torch
from small_nets import Expert, TinyMoE, build
from torch import nn

import moeverify as mv
from moeverify.errors import PruningRefused, UsageError
from moeverify.models.forward import Example
from moeverify.models.roles import find_roles
from moeverify.models.zoo import build_zoo
from moeverify.pruning.choice.criteria import EXPERT_CRITERIA
from moeverify.pruning.experts.observe import observe
from moeverify.pruning.experts.removal import expert_layout
from moeverify.pruning.experts.scorer import ExpertScorer

IDS = {"input_ids": torch.arange(40).reshape(2, 20) * 3 % 120}


def scores(model, inputs, criterion, data=None):
    example = Example(inputs)
    layout = expert_layout(model, find_roles(model), example)
    return ExpertScorer(criterion, data if data is not None else [inputs], example)(model, layout)


def second(criterion, visits):
    """``visits[expert]`` lists (g, f, in, out) of its tokens; the formulas written out."""
    result = []
    for tokens in visits:
        norms = [float(f.double().norm()) for _, f, _, _ in tokens]
        weights = [float(g) for g, *_ in tokens]
        turned = [max(1 - float(torch.cosine_similarity(a.double(), b.double(), dim=0)), 0) for *_, a, b in tokens]
        both = [g * n for g, n in zip(weights, norms, strict=True)]
        result.append(
            {
                "reap": lambda b=both, t=tokens: sum(b) / len(t),
                "frequency": lambda t=tokens: len(t),
                "weighted-frequency": lambda w=weights: sum(w),
                "ean": lambda n=norms: sum(n),
                "man": lambda n=norms: sum(n) / len(n),
                "msan": lambda n=norms: sum(x * x for x in n) / len(n),
                "easy-ep": lambda b=both, t=turned: sum(x * y for x, y in zip(b, t, strict=True)),
            }[criterion]()
        )
    return torch.tensor(result, dtype=torch.float64)


def visits_of(tokens, chosen, weights, run, experts):
    """Token by token: which expert gave what."""
    visits = [[] for _ in range(experts)]
    for x, ids, gs in zip(tokens, chosen.tolist(), weights, strict=True):
        outputs = [run(e, x) for e in ids]
        out = x + sum(g * f for g, f in zip(gs, outputs, strict=True))
        for e, g, f in zip(ids, gs, outputs, strict=True):
            visits[e].append((g, f, x, out))
    return visits


DATA = ("reap", "frequency", "weighted-frequency", "ean", "man", "msan", "easy-ep")


@pytest.mark.parametrize("criterion", DATA)
@torch.no_grad()
def test_fused_experts_score_as_computed_token_by_token(criterion):
    model = build_zoo("mixtral")
    inputs = []
    block = model.model.layers[1].mlp
    handle = block.register_forward_pre_hook(lambda _, args: inputs.append(args[0].flatten(0, 1)))
    model(**IDS)
    handle.remove()
    (tokens,) = inputs
    weights, chosen = (tokens @ block.gate.weight.T).softmax(-1).topk(2, dim=-1)
    weights = weights / weights.sum(-1, keepdim=True)

    def run(e, x):
        gate, up = (block.experts.gate_up_proj[e] @ x).chunk(2)
        return block.experts.down_proj[e] @ (nn.functional.silu(gate) * up)

    expected = second(criterion, visits_of(tokens, chosen, weights, run, 4))
    assert torch.allclose(scores(model, IDS, criterion)["model.layers.1.mlp"], expected, rtol=1e-4)


@pytest.mark.parametrize("criterion", DATA)
@torch.no_grad()
def test_sigmoid_routers_with_a_correction_bias_use_their_own_weights(criterion):
    model = build_zoo("glm4_moe")
    block = model.model.layers[1].mlp
    inputs = []
    handle = block.register_forward_pre_hook(lambda _, args: inputs.append(args[0].flatten(0, 1)))
    model(**IDS)
    handle.remove()
    (tokens,) = inputs
    sigmoid = (tokens @ block.gate.weight.T).sigmoid()
    chosen = (sigmoid + block.gate.e_score_correction_bias).topk(2, dim=-1).indices
    weights = sigmoid.gather(1, chosen)
    weights = weights / weights.sum(-1, keepdim=True) * block.gate.routed_scaling_factor

    def run(e, x):
        gate, up = (block.experts.gate_up_proj[e] @ x).chunk(2)
        return block.experts.down_proj[e] @ (nn.functional.silu(gate) * up)

    expected = second(criterion, visits_of(tokens, chosen, weights, run, 4))
    assert torch.allclose(scores(model, IDS, criterion)["model.layers.1.mlp"], expected, rtol=1e-4)


@pytest.mark.parametrize("criterion", DATA)
@torch.no_grad()
def test_listed_experts_score_as_computed_token_by_token(criterion):
    model, data = build(TinyMoE, experts=4, shared=10), torch.randn(60, 5)
    layer, tokens = model.layers[0], model.embed(data)
    weights, chosen = layer.gate(tokens).softmax(-1).topk(2)
    expected = second(criterion, visits_of(tokens, chosen, weights, lambda e, x: layer.experts[e](x), 4))
    assert torch.allclose(scores(model, data, criterion)["layers.0"], expected, rtol=1e-4)


class Mixed(nn.Module):
    """All experts on all tokens, added up by one product with the gates."""

    def __init__(self, top_k=2):
        super().__init__()
        self.gate = nn.Linear(8, 4, bias=False)
        self.experts = nn.ModuleList(Expert(8, 6) for _ in range(4))
        self.top_k, self.power = top_k, 1

    def forward(self, x):
        scores = self.gate(x).softmax(-1)
        weights, chosen = scores.topk(self.top_k, dim=-1)
        gates = torch.zeros_like(scores).scatter(-1, chosen, weights)
        out = torch.einsum("te,teh->th", gates, torch.stack([expert(x) for expert in self.experts], dim=1))
        return x + out.sign() * out.abs() ** self.power


@pytest.mark.parametrize("criterion", DATA)
@torch.no_grad()
def test_listed_experts_added_up_by_a_product(criterion):
    model, tokens = nn.Sequential(build(Mixed)), torch.randn(30, 8)
    layer = model[0]
    weights, chosen = layer.gate(tokens).softmax(-1).topk(2)
    expected = second(criterion, visits_of(tokens, chosen, weights, lambda e, x: layer.experts[e](x), 4))
    assert torch.allclose(scores(model, tokens, criterion)["0"], expected, rtol=1e-4)


def test_outputs_that_are_no_weighted_sum_are_refused():
    model, tokens = nn.Sequential(build(Mixed)), torch.randn(30, 8)
    model[0].power = 2
    with pytest.raises(PruningRefused, match=r"0\.experts is not the weighted sum .* aimer, magnitude or random"):
        scores(model, tokens, "reap")


@torch.no_grad()
def test_experts_that_get_weighted_tokens():
    model = build_zoo("llama4_text")
    block = model.model.layers[1].feed_forward
    inputs = []
    handle = block.register_forward_pre_hook(lambda _, args: inputs.append(args[0].flatten(0, 1)))
    model(**IDS)
    handle.remove()
    (tokens,) = inputs
    logits = tokens @ block.router.weight.T
    total, count = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for x, e, g in zip(tokens, logits.argmax(-1).tolist(), logits.amax(-1).sigmoid(), strict=True):
        gate, up = (g * x @ block.experts.gate_up_proj[e]).chunk(2)
        total[e] += float(((up * nn.functional.silu(gate)) @ block.experts.down_proj[e]).norm())
        count[e] += 1
    assert torch.equal(scores(model, IDS, "frequency")["model.layers.1.feed_forward"], count)
    assert torch.allclose(scores(model, IDS, "reap")["model.layers.1.feed_forward"], total / count, rtol=1e-4)


@torch.no_grad()
def test_a_token_that_skips_its_expert_was_not_routed():
    model = build_zoo("zaya")
    seen = []
    block = model.model.layers[0].mlp
    block.gate.balancing_biases[4] = 0.2
    handle = block.experts.register_forward_pre_hook(lambda _, args: seen.append((args[1], args[2])))
    model(**IDS)
    handle.remove()
    ((chosen, weights),) = seen
    assert (weights == 0).any()
    expected = [float(((chosen == e) & (weights != 0)).sum()) for e in range(4)]
    example = Example(IDS)
    layers = expert_layout(model, find_roles(model), example).layers
    assert observe(model, layers, [IDS], example)["model.layers.0.mlp"].tokens.tolist() == expected


@pytest.mark.parametrize("criterion", ["aimer", "magnitude"])
@torch.no_grad()
def test_criteria_of_weights_alone(criterion):
    model = build_zoo("gpt_oss")
    experts = model.model.layers[0].mlp.experts
    for e, score in enumerate(scores(model, IDS, criterion)["model.layers.0.mlp"].tolist()):
        values = [v for _, p in sorted(experts.named_parameters()) for v in p[e].flatten().tolist()]
        square = sum(v * v for v in values)
        aimer = -(sum(map(abs, values)) / len(values)) / math.sqrt(square / len(values))
        assert score == pytest.approx({"aimer": aimer, "magnitude": math.sqrt(square)}[criterion], rel=1e-4)


def test_chance_is_the_same_for_the_same_seed():
    model = build(TinyMoE, experts=4)
    layout = expert_layout(model, find_roles(model), Example(torch.randn(9, 5)))
    drawn = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        drawn.append(ExpertScorer("random", None, None)(model, layout)["layers.0"])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_experts_without_tokens_are_named_and_rank_below_all_others():
    model, data = build(TinyMoE, experts=4, top_k=2), torch.randn(80, 5)
    with torch.no_grad():
        model.embed.weight.abs_()
        model.layers[0].gate.weight[1:3] = -100.0
        model.layers[0].experts[1].up_proj.weight *= 9
    with pytest.warns(UserWarning, match=r"2 experts got no token .* layers\.0\[1\], layers\.0\[2\]"):
        found = scores(model, data.abs(), "man")["layers.0"]
    assert found[2] < found[1] < found[[0, 3]].min()


def test_statistics_can_be_written_and_serve_other_ratios(tmp_path):
    model, data = build(TinyMoE, experts=4), torch.randn(30, 5)
    pruner = mv.MoEPruner(
        model, data, ratios={"experts": 0.5}, expert_criterion="reap", calibration=mv.Calibration([data])
    )
    planned = pruner.plan()
    pruner.expert_statistics.write(tmp_path / "statistics.json")
    read = mv.ExpertStatistics.read(tmp_path / "statistics.json")
    assert read.data_digest.startswith("sha256:")
    assert read.settings["samples"] == 128
    for ratio, kept in ((0.5, 2), (0.25, 3)):
        plan = mv.MoEPruner(model, data, ratios={"experts": ratio}, expert_criterion="reap", calibration=read).plan()
        assert len(plan.experts[0].kept) == kept
    again = mv.MoEPruner(model, data, ratios={"experts": 0.5}, expert_criterion="reap", calibration=read).plan()
    assert again.experts[0].kept.tolist() == planned.experts[0].kept.tolist()
    with torch.no_grad():
        model.layers[0].gate.weight += 1
    with pytest.raises(UsageError, match="gathered from other weights"):
        mv.MoEPruner(model, data, ratios={"experts": 0.5}, expert_criterion="reap", calibration=read).plan()
    (tmp_path / "statistics.json").write_text("{}")
    with pytest.raises(UsageError, match="not a document of expert statistics"):
        mv.ExpertStatistics.read(tmp_path / "statistics.json")


def test_unknown_criteria_and_missing_data():
    model, data = build(TinyMoE, experts=4), torch.randn(30, 5)
    with pytest.raises(UsageError, match=r"unknown expert criterion 'raep'; use .*reap"):
        mv.MoEPruner(model, data, ratios={"experts": 0.5}, expert_criterion="raep")
    with pytest.raises(UsageError, match="the criterion reap needs calibration data"):
        mv.MoEPruner(model, data, ratios={"experts": 0.5}, expert_criterion="reap")
    with pytest.raises(PruningRefused, match="gives 1 scores for the 4 experts"):
        mv.MoEPruner(model, data, ratios={"experts": 0.5}, expert_criterion=lambda evidence: torch.ones(1)).plan()


def test_the_model_computes_as_before_it_was_observed():
    model = build_zoo("mixtral")
    before = model(**IDS).logits
    scores(model, IDS, "reap")
    assert torch.equal(model(**IDS).logits, before)
    assert torch.is_grad_enabled()
    assert set(DATA) | {"aimer", "magnitude", "random"} == set(EXPERT_CRITERIA)
