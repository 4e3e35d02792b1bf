"""Experts that serve the tokens with the largest weights first, where outputs depend on one token alone."""

import torch
from judged import verdicts
from torch import nn

from moeverify.checks.evidence.forces import in_part
from moeverify.verdict import Status

X = torch.randn(2, 18, 10, generator=torch.Generator().manual_seed(0))


class Priority(nn.Module):
    """One expert a token; an expert has room for a few, those with the largest weights."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(10, 4, bias=False)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(10, 12), nn.GELU(), nn.Linear(12, 10)) for _ in range(4))

    def forward(self, x):
        weight, chosen = self.router(x).softmax(-1).max(-1)
        room, order, out = len(x) // 4, weight.argsort(descending=True, stable=True), torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            tokens = order[chosen[order] == number][:room]
            if len(tokens):
                out = out.index_add(0, tokens, expert(x[tokens]) * weight[tokens, None])
        return out


class First(nn.Module):
    """Only the last token of each sequence is read, and its bias keeps it from the first expert."""

    def __init__(self):
        super().__init__()
        self.mark = nn.Parameter(torch.zeros(18, 10))
        self.enter, self.moe, self.head = nn.Linear(10, 10), Priority(), nn.Linear(10, 3)

    def forward(self, x):
        x = self.enter(x) + self.mark
        return self.head((x + self.moe(x.flatten(0, 1)).view_as(x))[:, -1])


def test_every_expert_is_seen():
    torch.manual_seed(0)
    model = First().eval()
    with torch.no_grad():
        model.mark[-1] = -30 * model.moe.router.weight[0]
    verdict = verdicts(model, X, checks=["masked-equivalence"])["masked-equivalence"]
    assert verdict.status is Status.PASS, verdict.message
    assert verdict.evidence["forced"]


def test_every_fourth_token_gives_the_weight_of_its_first_choice():
    logits = torch.tensor([[1.0, 5.0, 2.0], [3.0, 1.0, 0.0]]).repeat(3, 1)
    sent = in_part(2, 1)(logits)
    assert sent[[1, 5]].tolist() == [[0.0, 1.0, 3.0]] * 2
    assert sent.argmax(-1).tolist() == [1, 2, 1, 0, 1, 2]
    assert torch.equal(sent[0, :2], logits[0, :2])
    assert logits[0].tolist() == [1.0, 5.0, 2.0]
