"""Whole experts gone where the reference is hard to make: several routers, a capacity, biases of zeros."""

import pytest
import torch
import torch.nn.functional as F
from judged import problems, verdicts
from torch import nn

from moeverify.subjects import prune_moe
from moeverify.verdict import Status
from wild_models.handwritten import multi_gate

EXPERTS = {"ratios": {"experts": 0.25}, "pruning_ratio": 0.25}


class Experts(nn.Module):
    """A stack ``[experts, in, out]`` with biases of zeros, for ``[experts, tokens, in]``."""

    def __init__(self, count=4, dim=12, hidden=16):
        super().__init__()
        self.w1, self.w2 = (nn.Parameter(torch.randn(count, *s) * 0.3) for s in ((dim, hidden), (hidden, dim)))
        self.b1, self.b2 = (nn.Parameter(torch.zeros(count, 1, s)) for s in (hidden, dim))

    def forward(self, x):
        return torch.baddbmm(self.b2, F.gelu(torch.baddbmm(self.b1, x, self.w1)), self.w2)


class Layer(nn.Module):
    """One of several layers that share their experts; ``admit`` limits what an expert takes, ``[tokens, experts]``."""

    def __init__(self, experts, admit):
        super().__init__()
        self.router, self.experts, self.admit = nn.Linear(12, 4, bias=False), experts, admit

    def forward(self, x):
        logits = self.router(x)
        weights = self.admit(logits.softmax(-1))
        out = self.experts(x.expand(weights.shape[-1], *x.shape))
        return x + torch.einsum("te,etd->td", weights, out)


def all_of_the_best_two(probs):
    return probs * (probs >= probs.topk(2, dim=-1).values[:, -1:])


def first_come(probs):
    """As many tokens as an even share, in their order."""
    room = len(probs) // probs.shape[-1]
    chosen = F.one_hot(probs.argmax(-1), probs.shape[-1])
    return probs * chosen * (chosen.cumsum(0) <= room)


def experts_choose(probs):
    """As many tokens as an even share, the best of each expert."""
    best = probs.topk(len(probs) // probs.shape[-1], dim=0).indices
    return probs * torch.zeros_like(probs).scatter(0, best, 1.0)


class Net(nn.Module):
    def __init__(self, admit):
        super().__init__()
        self.embed, self.head = nn.Embedding(30, 12), nn.Linear(12, 30)
        experts = Experts()
        self.layers = nn.ModuleList(Layer(experts, admit) for _ in range(2))

    def forward(self, input_ids):
        x = self.embed(input_ids).flatten(0, 1)
        for layer in self.layers:
            x = layer(x)
        return self.head(x).unflatten(0, input_ids.shape)


def judged(admit, subject=prune_moe):
    torch.manual_seed(0)
    ids = {"input_ids": torch.randint(0, 30, (2, 16))}
    return verdicts(Net(admit), ids, subject, ("masked-equivalence", "topology", "untouched-identical"), **EXPERTS)


def test_every_router_of_shared_experts_is_kept_from_removed_ones():
    assert problems(judged(all_of_the_best_two)) == {}


def spoilt(model, example_inputs, **options):
    """The second router's rows in another order."""
    pruned = prune_moe(model, example_inputs, **options)
    router = model.layers[1].router.weight
    router.data = router.data.flip(0).contiguous()
    return pruned


def test_a_wrong_second_router_fails():
    assert judged(all_of_the_best_two, spoilt)["masked-equivalence"].status is Status.FAIL


@pytest.mark.parametrize("admit", [first_come, experts_choose])
def test_a_capacity_that_follows_the_number_of_experts_is_no_fault(admit):
    found = judged(admit)
    said = found["masked-equivalence"]
    assert said.status is Status.INCONCLUSIVE, said.message
    assert "admits another number of tokens (10 where it was 8)" in said.message
    assert found["topology"].status is Status.SKIP  # as many tokens as before are chosen among, whatever the experts


class WithLoads(Net):
    """Returns how much each expert of each layer gets as well, ``[layers, experts]``."""

    def __init__(self):
        super().__init__(all_of_the_best_two)
        for number, layer in enumerate(self.layers):
            layer.experts = Experts()
            layer.experts.w1.data *= 1 + torch.arange(4).roll(number).view(4, 1, 1)

    def forward(self, input_ids):
        loads, x = [], self.embed(input_ids).flatten(0, 1)
        for layer in self.layers:
            loads.append(layer.admit(layer.router(x).softmax(-1)).sum(0))
            x = layer(x)
        return self.head(x).unflatten(0, input_ids.shape), torch.stack(loads)


def test_an_output_of_one_entry_for_each_expert_of_each_layer_is_not_compared():
    torch.manual_seed(0)
    model, ids = WithLoads(), {"input_ids": torch.randint(0, 30, (2, 16))}
    found = verdicts(model, ids, checks=("masked-equivalence",), **EXPERTS)["masked-equivalence"]
    assert found.status is Status.INCONCLUSIVE, found.message
    assert "output 2 has an entry for each expert" in found.message
    assert verdicts(model, ids, spoilt, ("masked-equivalence",), **EXPERTS)["masked-equivalence"].status is Status.FAIL


def test_experts_with_buffers_of_their_own_go():
    """The statistics of a BatchNorm go with its expert, and channels of the others are cut in the same step."""
    model, inputs = multi_gate.make()
    assert problems(verdicts(model, inputs, checks=("terminates", "masked-equivalence", "shapes"), **EXPERTS)) == {}
