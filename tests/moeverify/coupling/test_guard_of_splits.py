"""Parts of a dimension stay in step: equal splits are balanced, slices by number frozen unless a size checks them."""

import pytest
import torch
from torch import nn

import moeverify as mv
from moeverify.coupling.solving.cuts import CUT_BY_NUMBER


class EqualSplit(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 10), nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x):
        left, right = self.a(x).chunk(2, dim=-1)
        return self.b(left) + self.c(right)


def test_equal_split_with_independent_consumers_is_balanced():
    found = mv.trace_couplings(EqualSplit(), torch.randn(2, 4))
    assert not found.classes


class HalvesBySlices(nn.Module):
    """The bounds follow the size: after pruning the left half alone they would lie elsewhere."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 10), nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x):
        y = self.a(x)
        half = y.shape[-1] // 2
        return self.b(y[..., :half]) + self.c(y[..., half:])


def test_halves_by_slices_are_balanced():
    found = mv.trace_couplings(HalvesBySlices(), torch.randn(2, 4))
    assert not found.classes


class ConstantSlices(nn.Module):
    """Bounds that are numbers: after pruning, a sum of the first ``width`` would take in others without failing."""

    def __init__(self, width):
        super().__init__()
        self.width = width
        self.a, self.b = nn.Linear(4, 10), nn.Linear(2, 3)

    def forward(self, x):
        y = self.a(x)
        left, right = y[:, : self.width], y[:, self.width :]
        return self.b(torch.cat([left.sum(-1, keepdim=True), right.sum(-1, keepdim=True)], dim=-1))


@pytest.mark.parametrize("width", [3, 5, 7])
def test_slices_whose_size_nothing_shares_are_frozen(width):
    found = mv.trace_couplings(ConstantSlices(width), torch.randn(2, 4))
    assert not any("a.weight" in c.parameters for c in found.classes)
    frozen = {f.reason for f in found.frozen if f.parameter == "a.weight" and f.dim == 0}
    assert frozen == {CUT_BY_NUMBER}


class ProductOfSlices(nn.Module):
    """Two slices of one dimension meet, and nothing else has their size."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 10), nn.Linear(1, 3)

    def forward(self, x):
        y = self.a(x)
        return self.b((y[:, :3] * y[:, 3:6]).sum(-1, keepdim=True))


def test_slices_that_share_a_size_with_slices_alone_are_frozen():
    assert not mv.trace_couplings(ProductOfSlices(), torch.randn(2, 4)).classes


class SlicesWithConsumers(nn.Module):
    """A bound that did not follow would not fit the consumers: nothing need be held."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 10), nn.Linear(3, 2), nn.Linear(7, 2)

    def forward(self, x):
        y = self.a(x)
        return self.b(y[:, :3]) + self.c(y[:, 3:])


def test_slices_with_consumers_of_their_own_stay_live():
    found = mv.trace_couplings(SlicesWithConsumers(), torch.randn(2, 4))
    assert sorted((c.size, tuple(sorted(c.parameters))) for c in found.classes) == [
        (3, ("a.bias", "a.weight", "b.weight")),
        (7, ("a.bias", "a.weight", "c.weight")),
    ]


class GatedHalves(nn.Module):
    """Halves that meet again shrink alike."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 10), nn.Linear(5, 3)

    def forward(self, x):
        y = self.a(x)
        half = y.shape[-1] // 2
        return self.b(y[..., :half].sigmoid() * y[..., half:])


def test_halves_that_meet_again_are_pairs():
    (found,) = mv.trace_couplings(GatedHalves(), torch.randn(2, 4)).classes
    by_name = {m.parameter: m.positions.tolist() for m in found.members}
    assert by_name["a.weight"] == [[p, p + 5] for p in range(5)]
    assert by_name["b.weight"] == [[p] for p in range(5)]


class FusedProjection(nn.Module):
    """Queries, keys and values from one projection, cut in thirds by ``chunk``; ``joint`` if they meet again."""

    def __init__(self, joint=True):
        super().__init__()
        self.qkv, self.out, self.joint = nn.Linear(6, 24), nn.Linear(8, 3), joint

    def forward(self, x):
        query, key, value = (part.view(*x.shape[:-1], 4, 2).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        if not self.joint:  # the queries' heads meet nothing else
            return self.out(query.transpose(1, 2).flatten(2)) + key.mean(1).sum() + value.sum()
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))


def test_parts_of_an_equal_split_that_lose_the_same_heads_shrink_alike():
    found = mv.trace_couplings(FusedProjection(), torch.randn(2, 5, 6)).classes
    by_name = {(m.parameter, m.dim): m.positions.tolist() for c in found for m in c.members}
    heads = [[2 * h, 2 * h + 1] for h in range(4)]
    assert by_name["out.weight", 1] == heads
    assert by_name["qkv.weight", 0] == [[p + 8 * third for third in range(3) for p in head] for head in heads]


def test_parts_of_an_equal_split_with_heads_of_their_own_are_balanced():
    found = mv.trace_couplings(FusedProjection(joint=False), torch.randn(2, 5, 6))
    assert not [m for c in found.classes for m in c.members if (m.parameter, m.dim) == ("qkv.weight", 0)]
