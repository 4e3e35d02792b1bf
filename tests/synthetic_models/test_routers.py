"""Routers of specs: groups, correction biases in three places, ids by table, scales, choices without weights."""

from dataclasses import replace

import pytest
import torch

from synthetic_models import Spec, build, example_inputs
from synthetic_models.layers.routers import Router

TOKENS = torch.randn(7, 8, generator=torch.Generator().manual_seed(0))


def router(spec):
    made = Router(spec, spec.hidden, 0, spec.experts)
    with torch.no_grad():
        for name, tensor in made.named_parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(len(name))))
    return made


def chosen(spec, made=None):
    assigned = (made or router(spec))(TOKENS, torch.arange(len(TOKENS)))
    return assigned.experts.reshape(len(TOKENS), -1), assigned.weights.reshape(len(TOKENS), -1)


def test_only_chosen_groups_are_used():
    spec = Spec(widths=(4,) * 12, router="group_limited", groups=4, chosen_groups=2, group_scores=2, top_k=3)
    made = router(spec)
    experts, _ = chosen(spec, made)
    scores = ((TOKENS @ made.weight.T).sigmoid() + made.e_score_correction_bias).detach()
    for token, row in enumerate(experts):
        each = scores[token].reshape(4, 3)
        best = each.topk(2, dim=-1).values.sum(-1).topk(2).indices.tolist()
        assert {int(e) // 3 for e in row} <= set(best)
        allowed = [e for e in range(12) if e // 3 in best]
        wanted = sorted(allowed, key=lambda e: -float(scores[token, e]))[:3]
        assert sorted(row.tolist()) == sorted(wanted)


@pytest.mark.parametrize("kind", ["sigmoid", "group_limited"])
def test_a_bias_on_the_block_works_as_one_on_the_router(kind):
    spec = Spec(widths=(4,) * 4, router=kind, layers=("moe",))
    own, block = build(spec, plain=True), build(replace(spec, correction="block"), plain=True)
    bias = torch.tensor([0.3, -0.2, 0.1, 0.0])
    state = {n: v for n, v in own.state_dict().items() if "correction" not in n}
    own.load_state_dict(state | {"model.layers.0.mlp.gate.e_score_correction_bias": bias})
    block.load_state_dict(state | {"model.layers.0.mlp.e_score_correction_bias": bias})
    inputs = example_inputs(spec)
    assert torch.equal(own(**inputs), block(**inputs))
    buffer = build(replace(spec, correction="buffer"), plain=True)
    assert "model.layers.0.mlp.gate.e_score_correction_bias" not in dict(buffer.named_parameters())
    buffer.load_state_dict(state | {"model.layers.0.mlp.gate.e_score_correction_bias": bias})
    assert torch.equal(own(**inputs), buffer(**inputs))


def test_a_table_names_distinct_experts_for_each_token():
    spec = Spec(vocab=16, widths=(4,) * 5, router="hash", top_k=3)
    experts, weights = chosen(spec)
    assert experts.shape == (7, 3)
    assert all(len(set(row.tolist())) == 3 for row in experts)
    assert len(weights.unique()) > 7  # scores, not shares
    assert chosen(replace(spec, top_k=1))[1].eq(1).all()


def test_scales_multiply_the_weights():
    spec = Spec(widths=(4,) * 4, top_k=2, expert_scale=True)
    made = router(spec)
    experts, weights = chosen(spec, made)
    torch.testing.assert_close(
        weights / made.per_expert_scale[experts], chosen(spec)[1] / made.per_expert_scale[experts]
    )
    plain = Router(replace(spec, expert_scale=False), spec.hidden, 0, 4)
    plain.load_state_dict({"weight": made.weight})
    torch.testing.assert_close(weights, chosen(spec, plain)[1] * made.per_expert_scale[experts])


def test_choices_without_weights_return_the_token():
    spec = Spec(hidden=8, widths=(4, 4), zero_experts=1, top_k=1)
    model = build(spec, plain=True)
    block = model.model.layers[0].mlp
    with torch.no_grad():
        block.gate.weight.zero_()
        block.gate.weight[2] = 1.0  # every token of positive sum takes the one without weights
        x = TOKENS.abs()[None]
        assert torch.allclose(block(x, torch.zeros(1, 7, dtype=torch.long)), x)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"router": "group_limited", "widths": (4,) * 6, "groups": 4}, "4 groups, of which 1 are chosen"),
        ({"router": "group_limited", "widths": (4,) * 4, "top_k": 3}, "top_k 3 exceeds the 2 experts"),
        ({"groups": 3, "widths": (4,) * 6}, "groups belong to a group_limited router, not to softmax"),
        ({"correction": "block"}, "a softmax router has no correction bias"),
        ({"router": "soft", "expert_scale": True}, "expert_scale needs a router that weights chosen experts"),
        ({"router": "noisy", "zero_experts": 1}, "zero_experts need a softmax or sigmoid router"),
        ({"correction": "nowhere"}, "unknown correction"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Spec(**fields)
