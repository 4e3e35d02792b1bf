"""Vectors that no output can depend on count if the operations that read them agree."""

import pytest
import torch
from torch import nn

import moeverify as mv
from moeverify.checks.evidence.kept import Kept
from moeverify.checks.evidence.readers import Readers, agree, shown
from moeverify.verdict import Status

EVEN, ODD = slice(0, None, 2), slice(1, None, 2)


class Attention(nn.Module):
    """Without positions a bias of the keys adds the same to all scores of a query, which a softmax takes out.

    ``how`` says how the bias is added: by the linear layer, in place, as a view, joined with another one, or in a
    branch that no input takes.
    """

    def __init__(self, how="linear", bias=nn.init.normal_):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 6), nn.Linear(8, 6, bias=how == "linear"), nn.Linear(8, 8)
        self.how = how
        if how != "linear":
            self.k_bias = nn.Parameter(torch.empty(6))
        for vector in (self.q.bias, self.key_bias):
            bias(vector)

    @property
    def key_bias(self):
        return self.k.bias if self.how == "linear" else self.k_bias

    def keys(self, x):
        if self.how == "in place":
            keys = self.k(x) * 1.0
            keys += self.k_bias
            return keys
        if self.how == "view":
            return self.k(x) + self.k_bias.view(1, 1, -1).to(x.dtype)
        if self.how == "joined":
            joined = torch.cat([self.k_bias, torch.zeros(1)])
            return self.k(x) + joined[:-1]
        return self.k(x) + self.k_bias if x.shape[1] > 100 else self.k(x)

    def forward(self, x):
        keys = self.k(x) if self.how == "linear" else self.keys(x)
        return (self.q(x) @ keys.transpose(1, 2) * 0.4).softmax(-1) @ self.v(x)


def of_keys(kept_of_bias):
    def subject(model, inputs, *, pruning_ratio, seed):
        bias = nn.Parameter(model.key_bias.detach()[kept_of_bias].clone())
        for layer in (model.q, model.k):
            layer.weight, layer.out_features = nn.Parameter(layer.weight.detach()[EVEN].clone()), 3
        model.q.bias = nn.Parameter(model.q.bias.detach()[EVEN].clone())
        if model.how == "linear":
            model.k.bias = bias
        else:
            model.k_bias = bias

    return subject


def verdict(model, subject):
    torch.manual_seed(0)
    checks = ["masked-equivalence"]
    return mv.verify(model, example_inputs=torch.randn(2, 5, 8), subject=subject, checks=checks).verdicts[-1]


@pytest.mark.parametrize("how", ["linear", "in place", "view", "joined"])
def test_a_bias_that_softmax_cancels_is_compared_where_it_is_added(how):
    assert verdict(Attention(how), of_keys(EVEN)).status is Status.PASS
    found = verdict(Attention(how), of_keys(ODD))
    assert found.status is Status.INCONCLUSIVE
    assert found.evidence["unseen"] == ["k.bias" if how == "linear" else "k_bias"]


def test_a_bias_of_zeros_tells_no_positions_and_needs_none():
    assert verdict(Attention(bias=nn.init.zeros_), of_keys(EVEN)).status is Status.PASS


def test_a_bias_that_no_operation_reads_is_not_approved():
    found = verdict(Attention("branch"), of_keys(EVEN))
    assert (found.status, found.evidence["unseen"]) == (Status.INCONCLUSIVE, ["k_bias"])


class Normed(nn.Module):
    """A bias before an instance norm shifts a whole channel, which the norm takes out."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv1d(3, 6, 1), nn.InstanceNorm1d(6), nn.Conv1d(6, 2, 1)

    def forward(self, x):
        return self.b(self.norm(self.a(x)).relu())


def of_normed(kept_of_bias):
    def subject(model, inputs, *, pruning_ratio, seed):
        a, b = model.a, model.b
        a.weight, a.bias = nn.Parameter(a.weight[EVEN].clone()), nn.Parameter(a.bias[kept_of_bias].clone())
        b.weight = nn.Parameter(b.weight[:, EVEN].clone())
        a.out_channels = model.norm.num_features = b.in_channels = 3

    return subject


@pytest.mark.parametrize(("kept", "status"), [(EVEN, Status.PASS), (ODD, Status.INCONCLUSIVE)])
def test_a_bias_before_an_instance_norm(kept, status):
    torch.manual_seed(0)
    found = mv.verify(
        Normed(), example_inputs=torch.randn(2, 3, 7), subject=of_normed(kept), checks=["masked-equivalence"]
    ).verdicts[-1]
    assert found.status is status, found.message


def readings(bias, weight, x, behind):
    readers = Readers({"bias": bias, "weight": weight}, {"bias"})
    with readers:
        behind(nn.functional.linear(x, weight, bias)).backward()
    return readers.readings["bias"]


def test_readings_tell_dependence_and_gradient():
    x, weight, bias = torch.randn(5, 3).double(), torch.randn(4, 3).double(), torch.randn(4).double().requires_grad_()
    used = readings(bias, weight, x, lambda y: y.square().sum())
    assert shown(used, 1e-6)
    assert set(used[0].beside) == {"bias", "weight"}
    assert not shown(readings(bias, weight, x, lambda y: (y * 0).sum()), 1e-6)
    with Readers({"bias": bias}, {"bias"}) as unused:
        bias.detach().zero_().view(2, 2)
    assert unused.readings == {"bias": []}
    assert not shown([], 1e-6)


def test_readings_agree_at_the_channels_that_the_weight_kept():
    x, weight, bias = torch.randn(5, 3).double(), torch.randn(4, 3).double(), torch.zeros(4).double()
    kept = {("weight", 0): Kept(torch.tensor([0, 2]).numpy(), True)}
    whole = readings(bias.requires_grad_(), weight, x, torch.sum)
    right = readings(bias.detach()[:2].requires_grad_(), weight[[0, 2]], x, torch.sum)
    wrong = readings((bias.detach()[:2] + 1).requires_grad_(), weight[[0, 2]], x, torch.sum)
    assert agree("bias", right, whole, kept, 1e-9)
    assert not agree("bias", wrong, whole, kept, 1e-9)
    assert not agree("bias", right, whole, {}, 1e-9)
    assert not agree("bias", [], [], kept, 1e-9)
    assert not agree("bias", right, whole * 2, kept, 1e-9)
