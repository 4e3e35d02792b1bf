"""Data that leaves the dispatcher freezes what made it, unless the output does not depend on it."""

import ctypes

import pytest
import torch
from torch import nn

import moeverify as mv
from moeverify.models.zoo import build_zoo


class LeavesDispatcher(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(4, 2)

    def forward(self, x):
        return self.b(x) + float(self.a(x).numpy().sum())


def test_data_that_leaves_the_dispatcher_freezes():
    found = mv.trace_couplings(LeavesDispatcher(), torch.randn(3, 4))
    assert not found.classes


class LeavesUnseen(nn.Module):
    """As a kernel of one's own does: the memory is read, and no method of the tensor says so."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(4, 2)

    def forward(self, x):
        storage = self.a(x).untyped_storage()
        return self.b(x) + len(set(ctypes.string_at(storage.data_ptr(), storage.nbytes())))


def test_data_that_leaves_unseen_freezes():
    found = mv.trace_couplings(LeavesUnseen(), torch.randn(3, 4))
    assert not found.classes


class PartLeavesDispatcher(nn.Module):
    """Half of a result leaves as a view, while its storage stays in use."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        y = self.a(x)
        left = y[:, :3].numpy().sum()
        return self.b(y) + float(left)


def test_a_view_that_leaves_the_dispatcher_freezes():
    found = mv.trace_couplings(PartLeavesDispatcher(), torch.randn(3, 4))
    stuck = {(f.parameter, f.dim): f.positions for f in found.frozen}
    assert set(range(3)) <= set(stuck["a.weight", 0])


class DropsByProducts(nn.Module):
    """As attention with sinks does (the indices of ``max``), and recurrences (the state after the last step)."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.state = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(4, 6)

    def forward(self, x):
        y, state = self.a(x), self.state(x)
        for _ in range(2):
            y, state = y + state, state * 0.5 + y
        return self.b(y - y.max(dim=0, keepdim=True).values)


def test_by_products_that_are_thrown_away_freeze_nothing():
    found = mv.trace_couplings(DropsByProducts(), torch.randn(3, 4))
    assert [sorted(c.parameters) for c in found.classes] == [
        ["a.bias", "a.weight", "b.weight", "state.bias", "state.weight"]
    ]


class ReadsAndDrops(LeavesUnseen):
    """What leaves unseen comes back in a tensor that was there before."""

    def forward(self, x):
        result = self.b(x)
        storage = self.a(x).untyped_storage()
        total = sum(ctypes.string_at(storage.data_ptr(), storage.nbytes()))
        ctypes.c_float.from_address(result.data_ptr()).value += total
        return result * 2


def test_data_that_comes_back_unseen_freezes():
    found = mv.trace_couplings(ReadsAndDrops(), torch.randn(3, 4))
    assert not found.classes


def test_the_second_look_leaves_random_numbers_and_weights_alone():
    model, x = DropsByProducts(), torch.randn(3, 4)
    weights = {name: p.clone() for name, p in model.named_parameters()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    mv.trace_couplings(model, x)
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("reads", [False, True])
def test_an_address_whose_alignment_alone_is_looked_at_freezes_nothing(monkeypatch, reads):
    """With torch up to 2.10 transformers does so before each grouped product on a processor."""
    from transformers.integrations import moe

    monkeypatch.setattr(moe, "is_torch_less_or_equal", lambda release, **_: release == "2.10.0")
    if reads:
        namespace = {"__name__": "elsewhere"}
        exec("def look(tensor):\n    return tensor.data_ptr()", namespace)
        monkeypatch.setattr(moe, "is_torchdynamo_compiling", lambda: False)
        monkeypatch.setattr(moe, "_can_use_grouped_mm", lambda given, weight, offs: bool(namespace["look"](weight)))
    found = mv.trace_couplings(build_zoo("mixtral"), {"input_ids": torch.arange(24).view(2, 12)})
    stacks = {f.parameter for f in found.frozen if "data_ptr" in f.reason}
    assert any("experts.gate_up_proj" in name for name in stacks) == reads
    assert any("experts.gate_up_proj" in name for c in found.classes for name in c.parameters) != reads
