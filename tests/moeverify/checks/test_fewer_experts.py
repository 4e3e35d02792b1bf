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


class WithLoss(Net):
    """Returns a balancing loss as well: the number of experts times the sum over experts of share and probability."""

    def __init__(self, *, main=False):
        super().__init__(all_of_the_best_two)
        self.main = main

    def forward(self, input_ids):
        loss, x = 0.0, self.embed(input_ids).flatten(0, 1)
        for layer in self.layers:
            probs = layer.router(x).softmax(-1)
            share = F.one_hot(probs.argmax(-1), probs.shape[-1]).to(probs).mean(0)
            loss = loss + probs.shape[-1] * (share * probs.mean(0)).sum()
            x = layer(x) * (probs.shape[-1] if self.main else 1)
        return self.head(x).unflatten(0, input_ids.shape), loss


@pytest.mark.parametrize(
    ("main", "said"), [(False, "output 2 is one number over all experts"), (True, "other numbers (3 where it was 4)")]
)
def test_a_loss_or_factor_that_follows_the_number_of_experts_is_no_fault(main, said):
    torch.manual_seed(0)
    model, ids = WithLoss(main=main), {"input_ids": torch.randint(0, 30, (2, 16))}
    found = verdicts(model, ids, checks=("masked-equivalence",), **EXPERTS)["masked-equivalence"]
    assert found.status is Status.INCONCLUSIVE, found.message
    assert said in found.message
    assert verdicts(model, ids, spoilt, ("masked-equivalence",), **EXPERTS)["masked-equivalence"].status is Status.FAIL


def of_one_length(logits):
    return F.normalize(logits, dim=-1).softmax(-1)


def bounded(logits):
    return (2 * torch.tanh(logits / 2)).softmax(-1)


class Scored(nn.Module):
    """Experts of one layer weighed by ``scores`` of the router's logits."""

    def __init__(self, scores):
        super().__init__()
        self.router, self.experts, self.head = nn.Linear(12, 4, bias=False), Experts(), nn.Linear(12, 5)
        self.scores = scores

    def forward(self, x):
        weights = all_of_the_best_two(self.scores(self.router(x)))
        return self.head(torch.einsum("te,etd->td", weights, self.experts(x.expand(weights.shape[-1], *x.shape))))


def flipped(model, example_inputs, **options):
    """The rows of the router in another order."""
    pruned = prune_moe(model, example_inputs, **options)
    model.router.weight.data = model.router.weight.data.flip(0).contiguous()
    return pruned


@pytest.mark.parametrize("scores", [of_one_length, bounded])
def test_scores_that_lose_a_mask_of_the_logits(scores):
    """Minus infinity makes a norm of the logits NaN, and a bounded function gives removed experts weight."""
    torch.manual_seed(0)
    model, x = Scored(scores), torch.randn(9, 12)
    checks = ("masked-equivalence",)
    assert problems(verdicts(model, x, checks=checks, **EXPERTS)) == {}
    assert problems(verdicts(model, x, flipped, checks, **EXPERTS)) != {}


class Slots(nn.Module):
    """Soft MoE: every slot of an expert mixes all tokens; ``shape`` of the slots."""

    def __init__(self, shape):
        super().__init__()
        self.phi = nn.Parameter(torch.randn(shape))
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(12, 8), nn.GELU(), nn.Linear(8, 12)) for _ in range(4))
        self.experts[0].apply(lambda m: isinstance(m, nn.Linear) and m.weight.data.mul_(0.1))
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        logits = torch.einsum("nd,esd->nes" if self.phi.shape[-1] == 12 else "nd,des->nes", x, self.phi)
        slots = torch.einsum("nd,nes->esd", x, logits.softmax(0))
        out = torch.stack([expert(slot) for expert, slot in zip(self.experts, slots, strict=True)])
        return self.head(x + torch.einsum("esd,nes->nd", out, logits.flatten(1).softmax(-1).view_as(logits)))


@pytest.mark.parametrize("shape", [(4, 2, 12), (12, 4, 2)])
def test_listed_experts_are_known_by_slots(shape):
    """The slots tell which experts moved up; a softmax over the tokens of a removed expert is no number."""
    torch.manual_seed(0)
    found = verdicts(Slots(shape), torch.randn(7, 12), checks=("masked-equivalence", "untouched-identical"), **EXPERTS)
    assert problems(found) == {}


def test_a_removed_expert_that_no_token_chose_is_sent_some():
    torch.manual_seed(0)
    model = Scored(lambda logits: logits.softmax(-1))
    model.router = nn.Linear(12, 4)
    model.router.bias.data[0] = -50
    model.experts.w1.data[0] *= 0.1  # so that this expert goes
    fewer = {"ratios": {"experts": 0.25}, "pruning_ratio": 0}
    assert problems(verdicts(model, torch.randn(9, 12), checks=("masked-equivalence",), **fewer)) == {}


class Pixels(nn.Module):
    """Each pixel goes to the best expert by a convolution."""

    def __init__(self):
        super().__init__()
        self.router, self.head = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 2, 1)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 1)) for _ in range(4)
        )

    def forward(self, x):
        probs = self.router(x).softmax(1)
        weights, chosen = probs.max(1, keepdim=True)
        return self.head(sum(expert(x) * weights * (chosen == n) for n, expert in enumerate(self.experts)))


def test_a_router_of_pixels():
    torch.manual_seed(0)
    found = verdicts(Pixels(), torch.randn(2, 6, 5, 5), checks=("masked-equivalence", "router-intact"), **EXPERTS)
    assert problems(found) == {}
    assert found["router-intact"].status is Status.PASS


class Counted(Scored):
    """Counts in a buffer how much each expert got."""

    def __init__(self):
        super().__init__(lambda logits: logits.softmax(-1))
        self.register_buffer("load", torch.zeros(4))

    def forward(self, x):
        self.load += self.scores(self.router(x)).sum(0).to(self.load)
        return super().forward(x)


def test_loads_that_a_forward_counts_are_compared_after_it():
    torch.manual_seed(0)
    assert problems(verdicts(Counted(), torch.randn(9, 12), checks=("masked-equivalence",), **EXPERTS)) == {}


class Noisy(nn.Module):
    """A router whose noise is worked out always, and added in training."""

    def __init__(self):
        super().__init__()
        self.w_gate, self.w_noise = (nn.Parameter(torch.randn(24, 8) * 0.3) for _ in range(2))
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(24, 8), nn.GELU(), nn.Linear(8, 24)) for _ in range(8))
        self.read, self.head = nn.Linear(6, 24), nn.Linear(24, 5)

    def forward(self, x):
        x = self.read(x)
        logits, noise = x @ self.w_gate, F.softplus(x @ self.w_noise) + 0.01
        if self.training:
            logits = logits + torch.randn_like(logits) * noise
        weights = all_of_the_best_two(logits.softmax(-1))
        return self.head(x + sum(w[:, None] * e(x) for w, e in zip(weights.unbind(-1), self.experts, strict=True)))


def other_noise(model, example_inputs, **options):
    """The noise of other experts."""
    pruned = prune_moe(model, example_inputs, **options)
    model.w_noise.data = model.w_noise.data.flip(1).contiguous()
    return pruned


def test_noise_that_only_training_adds_keeps_the_experts_of_the_router():
    """Random numbers for fewer experts are others: the outputs of a training forward cannot be compared."""
    torch.manual_seed(0)
    model, x = Noisy(), torch.randn(9, 6)
    assert (
        problems(verdicts(model, x, checks=("masked-equivalence", "router-intact", "ratio-honoured"), **EXPERTS)) == {}
    )
    assert problems(verdicts(model, x, other_noise, checks=("masked-equivalence", "router-intact"), **EXPERTS)) != {}


def test_experts_with_buffers_of_their_own_go():
    """The statistics of a BatchNorm go with its expert, and channels of the others are cut in the same step."""
    model, inputs = multi_gate.make()
    assert problems(verdicts(model, inputs, checks=("terminates", "masked-equivalence", "shapes"), **EXPERTS)) == {}
