"""One matrix for all experts, taken apart by a loop over slices: cut only where the bounds are seen to follow."""

import copy

import pytest
import torch
from masked_original import difference
from torch import nn

import moeverify as mv

X = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


class Sliced(nn.Module):
    """Experts in consecutive rows; the width of one comes from ``how``."""

    def __init__(self, how):
        super().__init__()
        self.how, self.width, self.count = how, 12, 3
        self.router = nn.Linear(8, 3)
        self.up, self.down = (nn.Parameter(torch.randn(36, 8) * 0.3) for _ in range(2))

    def bounds(self, number):
        width = 12 if self.how == "literal" else self.width if self.how == "attribute" else len(self.down) // self.count
        return number * width, (number + 1) * width

    def forward(self, x):
        weights, out = self.router(x).softmax(-1), torch.zeros_like(x)
        for number in range(self.count):
            first, last = self.bounds(number)
            hidden = (x @ self.up[first:last].t()).relu()
            out = out + weights[:, number, None] * (hidden @ self.down[first:last])
        return out


class Net(nn.Module):
    def __init__(self, how, shown=True):
        super().__init__()
        self.proj, self.wide, self.shown = nn.Linear(8, 20), nn.Linear(20, 8), shown
        self.experts, self.head = Sliced(how), nn.Linear(8, 2)

    def forward(self, x):
        x = self.wide(self.proj(x).relu())
        scale = 1.0 if self.shown else float(x.detach().numpy().std() > 0) + 1  # needs values
        return self.head(x + scale * self.experts(x))


def pruned(how, **arguments):
    torch.manual_seed(0)
    model = Net(how, **arguments).eval()
    original = copy.deepcopy(model)
    plan = mv.MoEPruner(model, X, pruning_ratio=0.5).step()
    return original, model, plan


@pytest.mark.parametrize("how", ["attribute", "computed"])
def test_bounds_that_follow_let_each_expert_lose_channels(how):
    original, model, plan = pruned(how)
    assert len(model.experts.down) == 18
    assert model.experts.width == (6 if how == "attribute" else 12)
    (cut,) = (c for c in plan.cuts if c.pruning_class.role == "routed_experts")
    assert cut.pruning_class.experts == 3
    assert difference(original, model, plan, X) < 1e-12


@pytest.mark.parametrize("arguments", [{"how": "literal"}, {"how": "attribute", "shown": False}])
def test_bounds_that_do_not_follow_or_are_not_seen_leave_the_experts_alone(arguments):
    with pytest.warns(UserWarning, match=r"is left alone, .*test_expert_slices\.py:\d+"):
        original, model, plan = pruned(**arguments)
    assert len(model.experts.down) == 36
    assert difference(original, model, plan, X) < 1e-12
    assert "routed_experts" not in {c.pruning_class.role for c in plan.cuts}


def test_halves_that_one_parameter_alone_has_stay_frozen():
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.head = nn.Parameter(torch.randn(10, 8)), nn.Linear(2, 3)

        def forward(self, x):
            first, last = (x @ self.weight[:5].t()).sum(-1, True), (x @ self.weight[5:].t()).sum(-1, True)
            return self.head(torch.cat([first, last], -1))

    found = mv.trace_couplings(Halves(), X)
    assert not found.trace.sliced
    assert not any("weight" in c.parameters for c in found.classes)
