"""A cut dimension is divided as it was: numbers of heads written into a forward, and configurations that mislead."""

import copy

import pytest
import torch
from small_nets import build
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

import moeverify as mv
from moeverify.errors import PruningRefused
from moeverify.models.exercise import run_all
from tests.moeverify.pruning.test_derived_numbers import silenced

IDS = torch.arange(20).view(2, 10)
X = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Divided(nn.Module):
    """Attention whose forward knows the number of heads, or the size of each, by what no attribute says as a number."""

    def __init__(self, heads=4, size=4):
        super().__init__()
        self.shape = f"{heads},{size}"  # a text is no size attribute
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.wide, self.narrow = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, x):
        shape = tuple(map(int, self.shape.split(",")))
        q, k, v = (f(x).unflatten(-1, shape).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.narrow(self.wide(self.o(y)).relu())


@pytest.mark.parametrize(("heads", "size"), [(4, -1), (-1, 4)])
def test_heads_stay_where_fewer_would_be_as_many_smaller_ones(heads, size):
    model = build(Divided, heads=heads, size=size).double()
    original = copy.deepcopy(model)
    plan = mv.MoEPruner(model, X, pruning_ratio=0.5).step()
    told = [str(adjustment) for adjustment in plan.adjustments]
    if heads == 4:
        assert ["would no longer divide it into (..., 4)" in line for line in told] == [True]
    assert model.q.out_features == (16 if heads == 4 else 8)
    assert model.wide.out_features == 12
    with torch.no_grad():
        expected = silenced(original, plan)(X)
        assert (model(X) - expected).abs().max() < 1e-12 * expected.abs().max()


def test_they_are_refused_by_name():
    model = build(Divided)
    model.shape = "4,-1"
    with pytest.raises(PruningRefused, match="would no longer divide it"):
        mv.MoEPruner(model, X.float(), pruning_ratio=0.5, ratios={"heads": 0.5}).step()
    assert model.q.out_features == 16


def mamba(state):
    config = AutoConfig.for_model(
        "mamba2", vocab_size=32, hidden_size=32, num_hidden_layers=1, num_heads=8, head_dim=8, n_groups=2,
        state_size=state, chunk_size=4, pad_token_id=0, bos_token_id=1, eos_token_id=2, use_cache=False,
    )  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("state", [8, 16])
def test_a_size_that_heads_and_states_have_in_common_tells_them_apart_by_where_it_is(state):
    """One group of 8 states has the shapes of two groups of 4; there are 8 heads, too, and 8 channels in each."""
    model = mamba(state)
    mv.MoEPruner(model, {"input_ids": IDS}, pruning_ratio=0.5, ignored_layers=[model.lm_head]).step()
    assert (model.config.n_groups, model.config.state_size, model.config.num_heads) == (1, state, 4)


def test_a_configuration_that_says_the_shapes_in_another_way_is_not_taken(monkeypatch):
    """What the search does not see, the forward shows: the heads stay."""
    monkeypatch.setattr("moeverify.pruning.configuration.factors.FixedFactors.fixes", lambda *_: False)
    monkeypatch.setattr("moeverify.pruning.configuration.probe.Probe.factors_disturbed", lambda *_: {})
    model = mamba(8)
    before = run_all(model, {"input_ids": IDS})["logits"].shape
    plan = mv.MoEPruner(model, {"input_ids": IDS}, pruning_ratio=0.5, ignored_layers=[model.lm_head]).step()
    assert {a.pruning_class.role for a in plan.adjustments} == {"heads"}
    assert (model.config.n_groups, model.config.state_size, model.config.num_heads) == (2, 8, 8)
    assert run_all(model, {"input_ids": IDS})["logits"].shape == before


class BatchedHeads(nn.Module):
    """Heads and sequences in one dimension, ``[t, batch * heads, d]``; sizes in attributes."""

    def __init__(self, width=32, heads=4):
        super().__init__()
        self.width, self.heads, self.size = width, heads, width // heads
        self.words, self.out = nn.Embedding(20, width), nn.Linear(width, width)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, ids):
        x = self.words(ids).transpose(0, 1)
        t, b, _ = x.shape
        q, k, v = (
            f(x).contiguous().view(t, b * self.heads, self.size).transpose(0, 1) for f in (self.q, self.k, self.v)
        )
        mixed = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
        return self.out(mixed.transpose(0, 1).contiguous().view(t, b, self.width))


def test_heads_beside_sequences_in_one_dimension_are_counted_and_not_made_smaller():
    torch.manual_seed(0)
    model = BatchedHeads().eval()
    plan = mv.MoEPruner(model, torch.randint(0, 20, (2, 6)), pruning_ratio=0.5).step()
    assert {str(a) for a in plan.attributes} == {"heads 4 -> 2", "width 32 -> 16"}
    assert model.q.weight.shape == (16, 16)


def test_copies_of_one_position_do_not_freeze_what_they_index():
    class Scattered(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(5, 12), nn.Linear(12, 3)

        def forward(self, x):
            h = self.up(x).relu()
            index = torch.arange(len(x), device=x.device).flip(0).view(-1, 1).repeat(1, h.shape[-1])
            return self.down(torch.zeros_like(h).scatter_add_(0, index, h))

    model = Scattered().eval()
    mv.MoEPruner(model, torch.randn(4, 5), pruning_ratio=0.5).step()
    assert model.up.weight.shape[0] == 6
