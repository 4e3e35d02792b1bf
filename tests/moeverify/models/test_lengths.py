"""The example in other lengths, and which lengths are worth a forward."""

import doctest

import pytest
import torch
from torch import nn
from transformers import MistralConfig, MistralForCausalLM

from moeverify.models import lengths
from moeverify.models.drawn import Drawer
from moeverify.models.lengths import Lengths, lengths_for, position_numbers, resized, sequence_of


def test_examples_in_docstrings_are_true():
    assert doctest.testmod(lengths).failed == 0


def _resized(example, length, rows=2, special=()):
    sequence = sequence_of(example, {id(example["input_ids"])}, special)
    return resized(example, sequence, length, rows)


def test_other_tensors_follow_the_tokens():
    ids = torch.arange(10, 15).repeat(2, 1)
    example = {
        "input_ids": ids,
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]),
        "position_ids": torch.arange(5)[None],
        "causal": torch.ones(2, 1, 5, 5).tril(),
        "cache_position": torch.arange(5),
        "temperature": torch.tensor(0.5),
    }
    found = _resized(example, 12)
    assert found["input_ids"].tolist() == [[10, 11, 12, 13, 14, 10, 11, 12, 13, 14, 10, 11]] * 2
    assert found["attention_mask"].shape == (2, 12)
    assert found["position_ids"].tolist() == [list(range(12))]
    assert found["cache_position"].tolist() == list(range(12))
    assert found["causal"].shape == (2, 1, 12, 12)
    assert found["temperature"] is example["temperature"]
    assert _resized(example, 3, rows=1)["attention_mask"].tolist() == [[0, 0, 1]]


def test_special_tokens_are_not_repeated():
    example = {"input_ids": torch.tensor([[9, 4, 9, 5], [9, 6, 9, 7]])}
    found = _resized(example, 9, special={9})["input_ids"]
    assert found[0].tolist() == [9, 4, 9, 5, 4, 5, 4, 5, 4]
    assert sequence_of({"input_ids": torch.full((1, 4), 9)}, (), {9}) is None  # no token numbers, no floats


def test_features_are_no_sequence():
    assert sequence_of(torch.randn(8, 16), (), ()) is None
    assert sequence_of(torch.randn(2, 3, 8, 8), (), ()) is None
    assert sequence_of(torch.randn(2, 7, 16), (), ()).length == 7


def _mistral(window, attention="eager"):
    config = MistralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=window, attn_implementation=attention,
    )  # fmt: skip
    return MistralForCausalLM(config).eval()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_window_is_found_though_the_example_is_shorter(attention):
    model = _mistral(33, attention)
    example = {"input_ids": torch.randint(2, 60, (2, 12))}
    assert 33 in position_numbers(model, example)
    assert model.config._attn_implementation == attention
    assert lengths_for(Drawer(model, example).sequence, {33}, 10**5).longer == 41


class _Window(nn.Module):
    """Sums over the last tokens; an attribute whose name says nothing holds how many."""

    def __init__(self, reach, rows=None):
        super().__init__()
        self.embedding, self.reach = nn.Embedding(20, 8), reach
        self.places = None if rows is None else nn.Embedding(rows, 8)

    def forward(self, ids):
        at = torch.arange(ids.shape[1])
        seen = (at[None] <= at[:, None]) & (at[None] > at[:, None] - self.reach)
        hidden = self.embedding(ids) + (0 if self.places is None else self.places(at))
        return seen.float() @ hidden


def test_a_window_of_a_plain_module_is_found():
    assert 21 in position_numbers(_Window(21), torch.zeros(1, 4, dtype=torch.int64))


def test_a_window_beyond_what_is_affordable_is_named():
    drawer = Drawer(_Window(5000), torch.tensor([[3, 4, 5]]))
    found = lengths_for(drawer.sequence, position_numbers(drawer.model, drawer.example), 160)
    assert found == Lengths(17, 1, (5000,))


def test_the_original_decides_which_lengths_it_takes():
    drawer = Drawer(_Window(4, rows=10), torch.randint(0, 20, (2, 6)))
    assert drawer.in_length(13) is None
    assert drawer.in_length(9).example.shape == (1, 9)
    assert drawer.in_length(3).example.shape == (2, 3)


def test_inputs_of_another_length_are_drawn():
    drawer = Drawer(_Window(4), torch.randint(0, 20, (2, 6), generator=torch.Generator().manual_seed(0)))
    one, two = (drawer.in_length(13).draw(seed).inputs for seed in (1, 2))
    assert one.shape == two.shape == (1, 13)
    assert not torch.equal(one, two)
