"""Experts whose weights are whole numbers in buffers, as quantised ones are: channels around them go, experts stay."""

import torch
from judged import verdicts
from torch import nn

from moeverify.verdict import Status

X = torch.randint(0, 20, (2, 6), generator=torch.Generator().manual_seed(0))


class Experts(nn.Module):
    def __init__(self, count=4, width=12, inner=8):
        super().__init__()
        self.gate = nn.Linear(width, count)
        for name, shape in (("up", (count, inner, width)), ("down", (count, width, inner))):
            generator = torch.Generator().manual_seed(len(name))
            self.register_buffer(name, torch.randint(-127, 127, shape, dtype=torch.int8, generator=generator))
            self.register_buffer(f"{name}_scale", torch.full((count, 1, 1), 0.01))

    def forward(self, x):
        gates = self.gate(x).softmax(-1)
        up, down = self.up.to(x.dtype) * self.up_scale, self.down.to(x.dtype) * self.down_scale
        each = (torch.relu(x @ up[n].T) @ down[n].T * gates[..., n, None] for n in range(len(up)))
        return sum(each)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.experts, self.head = nn.Embedding(20, 12), Experts(), nn.Linear(12, 20)

    def forward(self, tokens):
        x = self.tokens(tokens)
        return self.head(x + self.experts(x))


def test_a_channel_that_buffers_write_is_not_in_use_by_others():
    torch.manual_seed(0)
    found = verdicts(Net(), X, checks=["coupling-minimal", "coupling-complete", "masked-equivalence"])
    assert {v.check: v.message for v in found.values() if v.status is not Status.PASS} == {}


def test_removing_such_experts_is_refused_with_the_buffer_and_a_remedy():
    torch.manual_seed(0)
    found = verdicts(Net(), X, checks=["terminates"], ratios={"experts": 0.25})["terminates"]
    assert "experts.up is a stack of weights in a buffer" in found.message
    assert "before you quantise" in found.message
