"""Values are compared bit by bit, wherever they lie in memory."""

import pytest
import torch

from moeverify.pruning.streaming.writing import _same_bits

TYPES = [torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.bool, torch.float8_e4m3fn]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("count", [0, 1, 7, 64])
def test_one_bit_makes_the_difference(dtype, count):
    values = (torch.arange(count) % 2).to(dtype)
    shifted = torch.cat([values.new_zeros(3), values])[3:]  # begins in the middle of a word
    assert _same_bits(values, values.clone())
    assert _same_bits(values, shifted)
    assert _same_bits(shifted, values)
    if count:
        other = values.clone()
        other.view(torch.uint8)[-1] ^= 1
        assert not _same_bits(values, other)
        assert not _same_bits(shifted, other)


def test_numbers_that_are_equal_may_have_other_bits():
    assert not _same_bits(torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0]))
    assert _same_bits(torch.tensor([float("nan"), 1.0]), torch.tensor([float("nan"), 1.0]))
    assert not _same_bits(torch.zeros(4), torch.zeros(2))
