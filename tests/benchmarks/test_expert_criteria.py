"""The comparison of criteria rests on right statistics: a second way to count, token by token, on the same text."""

import pytest
import torch

from benchmarks.expert_criteria import calibration, findings, silence
from moeverify.evaluation.tokenizer import load_tokenizer
from moeverify.models.forward import Example
from moeverify.models.roles import find_roles
from moeverify.models.sources import load_source
from moeverify.pruning.choice.criteria import EXPERT_CRITERIA
from moeverify.pruning.experts.observe import observe
from moeverify.pruning.experts.removal import expert_layout


@pytest.fixture(scope="module")
def small():
    loaded = load_source("small")
    batch = calibration(0, load_tokenizer(str(loaded.tokenizer)), count=1)[0]
    return loaded.model.eval(), {"input_ids": batch["input_ids"][:6]}


def read(model, inputs):
    """What every MoE block gets, ``[tokens, width]``."""
    given = []
    hooks = [
        layer.mlp.register_forward_pre_hook(lambda _, args: given.append(args[0].flatten(0, 1)))
        for layer in model.model.layers
    ]
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    return given


def output_of(experts, number, token):
    gate, up = (experts.gate_up_proj[number] @ token).chunk(2)
    return experts.down_proj[number] @ (torch.nn.functional.silu(gate) * up)


@torch.no_grad()
def test_reap_and_frequency_token_by_token(small):
    model, inputs = small
    example = Example(inputs)
    found = observe(model, expert_layout(model, find_roles(model), example).layers, [inputs], example)
    for layer, tokens, statistics in zip(model.model.layers, read(model, inputs), found.values(), strict=True):
        total, count = torch.zeros(8), torch.zeros(8)
        for token in tokens:
            weights, chosen = (layer.mlp.gate.weight @ token).softmax(-1).topk(2)
            for weight, number in zip(weights / weights.sum(), chosen.tolist(), strict=True):
                total[number] += weight * output_of(layer.mlp.experts, number, token).norm()
                count[number] += 1
        assert torch.equal(EXPERT_CRITERIA["frequency"].from_statistics(statistics).float(), count)
        reap = EXPERT_CRITERIA["reap"].from_statistics(statistics).float()
        assert torch.allclose(reap, total / count.clamp_min(1), rtol=1e-5, atol=1e-6)


def test_silenced_experts_are_chosen_and_add_nothing(small):
    model, inputs = small
    kept = [list(range(8)), [0, 1, 2, 3], list(range(8))]
    silenced = silence(model, kept)
    before, after = read(model, inputs), read(silenced, inputs)
    assert torch.equal(before[1], after[1])  # the layer before is as it was
    assert not torch.equal(before[2], after[2])
    experts = silenced.model.layers[1].mlp.experts
    assert all(bool(experts.down_proj[n].any()) == (n in kept[1]) for n in range(8))
    assert model.model.layers[1].mlp.experts.down_proj[7].any()


def test_findings_say_which_is_better():
    lines = [
        {"ratio": 0.5, "criterion": name, "mean": mean, "error": error, "silenced": silenced}
        for name, mean, error, silenced in (
            ("reap", 0.4, 0.0, 0.7), ("frequency", 0.6, 0.0, None), ("random", 0.5, 0.05, None)
        )
    ]  # fmt: skip
    (said,) = findings(lines)
    assert "worse than frequency" in said
    assert "-2.0 standard errors" in said
    assert "silenced instead of removed 0.700" in said
