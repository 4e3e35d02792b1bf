"""``unrelated-unchanged``: tensors that are no parameters, padding and classes, which no output in evaluation shows."""

import pytest
import torch
from judged import verdicts
from torch import nn
from torch.nn import functional as F

from moeverify.verdict import Status

CHECK = "unrelated-unchanged"
X = torch.randint(0, 20, (2, 6), generator=torch.Generator().manual_seed(0))


class Expert(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(12, 16), nn.Linear(16, 12)

    def forward(self, x):
        return self.down(F.gelu(self.up(x))) * (0.5 if self.training else 1.0)


class WithoutTheFactor(Expert):
    def forward(self, x):
        return self.down(F.gelu(self.up(x)))


class SameForward(Expert):
    pass


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.gate = nn.Embedding(20, 12), nn.Linear(12, 4)
        self.experts = nn.ModuleList(Expert() for _ in range(4))
        self.temperature, self.noise, self.width = torch.tensor(1.5), torch.tensor(0.3), None
        self.load = torch.zeros(4)

    def forward(self, tokens):
        x = self.tokens(tokens)
        scores = self.gate(x) / self.temperature
        if self.training:
            scores = scores + self.noise * torch.randn_like(scores)
        gates = scores.softmax(-1)
        self.load = gates.sum((0, 1)).detach()
        return x + sum(gates[..., n, None] * expert(x) for n, expert in enumerate(self.experts))


def judged(spoil):
    """The verdict on a right pruning to half the channels, and what ``spoil`` does beside it."""

    def prune(model, example_inputs, *, pruning_ratio, seed):
        for expert in model.experts:
            up, down = expert.up, expert.down
            up.weight, up.bias = nn.Parameter(up.weight.detach()[:8]), nn.Parameter(up.bias.detach()[:8])
            down.weight = nn.Parameter(down.weight.detach()[:, :8])
            up.out_features = down.in_features = 8
        model(example_inputs)
        spoil(model)

    torch.manual_seed(0)
    return verdicts(Net(), X, prune, checks=[CHECK])[CHECK]


def put(path, value):
    def spoil(model):
        holder, _, last = path.rpartition(".")
        setattr(model.get_submodule(holder), last, value)

    return spoil


def of_class(kind):
    def spoil(model):
        model.experts[1].__class__ = kind

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        lambda model: None,
        of_class(SameForward),  # computes the same
        put("width", 8),  # a size, written out
        put("temperature", torch.tensor(1.2)),  # outputs show it: masked-equivalence fails
    ],
)
def test_what_is_right_or_shown_by_outputs_passes(spoil):
    found = judged(spoil)
    assert found.status is Status.PASS, found.message


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (put("noise", torch.tensor(0.9)), "noise holds other values than the base's"),
        (put("tokens.padding_idx", 3), "tokens.padding_idx is 3, the base's None"),
        (of_class(WithoutTheFactor), "experts.1 is of the class WithoutTheFactor, the base's of Expert"),
    ],
)
def test_what_training_alone_reads_is_not_approved(spoil, words):
    found = judged(spoil)
    assert found.status is Status.INCONCLUSIVE, found.message
    assert found.message.startswith(words)


def test_a_plain_tensor_of_another_type_fails():
    found = judged(put("noise", torch.tensor(0.3, dtype=torch.float64)))
    assert found.status is Status.FAIL
    assert found.message.startswith("noise is torch.float64, the base's torch.float32")
