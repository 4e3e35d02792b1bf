"""Kept channels are recovered from values alone, also where the values do not tell."""

import numpy as np
import pytest
import torch
from torch import nn

from moeverify.checks.evidence.kept import is_part, recover_kept, source_names
from moeverify.checks.evidence.locate import bits, locate
from moeverify.models.roles import find_roles


class Block(nn.Module):
    def __init__(self, hidden=6, inner=8):
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.up = nn.Linear(hidden, inner)
        self.down = nn.Linear(inner, hidden)
        self.conv = nn.Conv1d(inner, inner, 3, groups=inner)
        self.register_buffer("scale", torch.ones(inner))

    def forward(self, x):
        return self.down(self.up(self.norm(x)) * self.scale)


def pruned(model, hidden, inner):
    """The block cut at the given channels, in the given order."""
    small = Block(len(hidden), len(inner))
    with torch.no_grad():
        for name, dims in {
            "norm.weight": [hidden], "norm.bias": [hidden], "up.weight": [inner, hidden], "up.bias": [inner],
            "down.weight": [hidden, inner], "down.bias": [hidden], "conv.weight": [inner], "conv.bias": [inner],
            "scale": [inner],
        }.items():  # fmt: skip
            values = dict(model.state_dict())[name]
            for dim, positions in enumerate(dims):
                values = values.index_select(dim, torch.tensor(positions))
            small.state_dict()[name].copy_(values)
    return small


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("zero_biases", [False, True])
def test_positions_of_every_tensor(dtype, zero_biases):
    torch.manual_seed(0)
    model = Block()
    if zero_biases:  # nothing in a bias of zeros or a norm weight of ones tells which channels stayed
        for layer in (model.up, model.down, model.conv):
            nn.init.zeros_(layer.bias)
    hidden, inner = [0, 2, 5], [1, 2, 4, 7]
    model = model.to(dtype)
    small = pruned(model, hidden, inner).to(dtype)
    kept = recover_kept(model, small)
    expected = {"up.weight": [inner, hidden], "down.weight": [hidden, inner], "up.bias": [inner], "down.bias": [hidden],
                "norm.weight": [hidden], "norm.bias": [hidden], "conv.weight": [inner], "conv.bias": [inner],
                "scale": [inner]}  # fmt: skip
    for name, dims in expected.items():
        for dim, positions in enumerate(dims):
            found = kept[name, dim]
            assert found.positions.tolist() == positions, (name, dim)
            tells = name not in ("norm.weight", "norm.bias", "scale") and not (zero_biases and name.endswith("bias"))
            assert found.exact == tells or (dtype is torch.bfloat16 and tells), name
        assert is_part(dict(small.state_dict())[name], dict(model.state_dict())[name], name, kept)


def test_order_and_alteration_are_seen():
    torch.manual_seed(0)
    model = Block()
    small = pruned(model, [0, 2, 5], [4, 1, 7])
    kept = recover_kept(model, small)
    assert kept["up.weight", 0].positions.tolist() == [4, 1, 7]
    with torch.no_grad():
        small.up.weight[1, 2] += 1e-6
    kept = recover_kept(model, small)
    assert kept["up.weight", 0].positions.tolist() == [4, 1, 7]
    assert not is_part(small.up.weight, model.up.weight, "up.weight", kept)


def test_equal_rows_are_handed_out_in_order():
    old = np.array([[1, 2], [3, 4], [1, 2], [5, 6]])
    found, unsure, equal = locate(old[[0, 2, 3]], old)
    assert found[0].tolist() == [0, 2, 3]
    assert unsure == {0}
    assert equal


def test_few_distinct_values_in_two_dimensions_need_a_neighbour():
    generator = np.random.default_rng(0)
    old = generator.integers(0, 3, (40, 30))
    rows, columns = np.arange(0, 40, 2), np.arange(0, 30, 3)
    new = old[rows][:, columns]
    assert not locate(new, old)[2]
    found, _, equal = locate(new, old, {1: columns})
    assert equal
    assert found[0].tolist() == rows.tolist()


def test_the_few_values_that_are_alone_settle_the_rest():
    torch.manual_seed(0)
    old = bits(torch.randn(192, 64).bfloat16())  # most of its values are there several times
    rows, columns = np.arange(48, 72), np.array([10, 20, 23, 34, 36, 38, 42, 63])
    found, unsure, equal = locate(old[rows][:, columns], old)
    assert (found[0].tolist(), found[1].tolist()) == (rows.tolist(), columns.tolist())
    assert (unsure, equal) == (set(), True)


def test_negative_zero_and_nan_are_bits():
    values = torch.tensor([0.0, -0.0, float("nan")])
    assert len(set(bits(values).tolist())) == 3
    assert (bits(values) == bits(values.clone())).all()


class Layer(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.gate = nn.Linear(4, count, bias=False)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(count))


def test_listed_experts_that_moved_up_are_found_again():
    torch.manual_seed(0)
    model, small = Layer(4), Layer(2)
    small.load_state_dict(
        {"gate.weight": model.gate.weight[[1, 3]]}
        | {f"experts.{new}.0.{leaf}": getattr(model.experts[old][0], leaf)
           for new, old in enumerate((1, 3)) for leaf in ("weight", "bias")}
    )  # fmt: skip
    names = source_names(model, small, find_roles(model))
    assert names["experts.0.0.weight"] == "experts.1.0.weight"
    assert names["experts.1.0.bias"] == "experts.3.0.bias"
    assert recover_kept(model, small, names)["gate.weight", 0].positions.tolist() == [1, 3]


def test_five_hundred_experts_take_seconds():
    torch.manual_seed(0)
    old, new = nn.Module(), nn.Module()
    old.w = nn.Parameter(torch.randn(512, 32, 24))
    old.v = nn.Parameter(torch.randn(512, 24, 32))
    new.w = nn.Parameter(old.w[:, ::2].clone())
    new.v = nn.Parameter(old.v[:, :, ::2].clone())
    kept = recover_kept(old, new)
    assert kept["w", 1].positions.tolist() == kept["v", 2].positions.tolist() == list(range(0, 32, 2))
