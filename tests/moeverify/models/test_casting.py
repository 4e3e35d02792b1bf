"""A model keeps its meaning in another precision: complex numbers stay complex, and outputs prove it."""

import pytest
import torch
from torch import nn

from moeverify.errors import SourceError
from moeverify.models.casting import cast_source
from moeverify.models.numerics import cast, float64_throughout, in_float64


class Rotary(nn.Module):
    """Turns pairs of channels by a table of complex numbers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        angles = torch.outer(torch.arange(6.0), torch.tensor([1.0, 0.3, 0.1, 0.02]))
        self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles), persistent=False)

    def forward(self, x):
        pairs = torch.view_as_complex(self.first(x).float().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * self.turns[: x.shape[-2]]).flatten(-2).to(x.dtype)


class ByPrecision(nn.Module):
    """Adds one, but in float32 only."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, x):
        return self.first(x) + (x.dtype is torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_complex_buffers_stay_complex(dtype):
    torch.manual_seed(0)
    model, x = Rotary(), torch.randn(2, 6, 4)
    expected = model(x)
    x = cast_source("source", model, x, dtype)
    assert model.turns.is_complex()
    assert model.first.weight.dtype is x.dtype is dtype
    tolerance = 1e-6 if dtype is not torch.bfloat16 else 0.1
    assert torch.allclose(model(x).float(), expected, atol=tolerance)


def test_float64_computes_with_complex_numbers_of_twice_the_precision():
    torch.manual_seed(0)
    model, x = Rotary(), torch.randn(2, 6, 4)
    exact = in_float64(model)
    assert exact.turns.dtype is torch.complex128
    with float64_throughout():
        assert torch.allclose(exact(x.double()), model(x).double(), atol=1e-6)
    assert model.turns.dtype is torch.complex64


def test_a_cast_that_gives_another_model_is_refused():
    with pytest.raises(SourceError, match=r"made:up computes other values in float64: output moves by \d+%; .*--dtype"):
        cast_source("made:up", ByPrecision(), torch.randn(3, 4), torch.float64)
    # In less precision outputs may move: nothing is compared.
    cast_source("made:up", ByPrecision(), torch.randn(3, 4), torch.bfloat16)


def test_integers_are_left_alone():
    model = nn.Module()
    model.register_buffer("ids", torch.arange(3))
    assert cast(model, torch.float64).ids.dtype is torch.int64
