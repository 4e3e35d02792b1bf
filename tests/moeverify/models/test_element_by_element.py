"""Tables that constructors compute on the meta device have the form that PyTorch gives them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from moeverify.models import element_by_element
from moeverify.models.element_by_element import CheapResults

TABLES = {
    "rotary": lambda: 1.0 / (10000.0 ** (torch.arange(0, 16, 2, dtype=torch.int64).to(dtype=torch.float) / 16)),
    "in half precision": lambda: (2 ** torch.arange(8, dtype=torch.bfloat16)).mul(0.5) - 1,
    "broadcast": lambda: torch.arange(4.0)[:, None] * torch.arange(3.0) + torch.ones(2, 1, 1),
    "two dtypes": lambda: torch.arange(4.0) * torch.ones(4, dtype=torch.float64),
    "whole numbers": lambda: torch.arange(2, 9) * 2,
    "divided whole numbers": lambda: torch.arange(2, 9) / 2,
    "downwards": lambda: torch.arange(9, 2, -2),
    "fractions": lambda: torch.arange(0, 1, 0.25),
    "none at all": lambda: torch.arange(0),
    "transposed": lambda: torch.ones(3, 4).t().exp(),
    "in place": lambda: torch.ones(3).add_(1).relu_(),
    "with options": lambda: (
        torch.div(torch.ones(3), 2, rounding_mode="floor") + F.gelu(torch.ones(3), approximate="tanh")
    ),
    "elsewhere": lambda: torch.arange(3, device="cpu") + 0.5,
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_the_form_that_pytorch_gives_it(name):
    with torch.device("meta"):
        wanted = TABLES[name]()
        with CheapResults():
            ours = TABLES[name]()
    assert (ours.shape, ours.stride(), ours.dtype, ours.device) == (
        wanted.shape,
        wanted.stride(),
        wanted.dtype,
        wanted.device,
    )


def test_rotary_tables_are_computed_without_pytorchs_own_python(monkeypatch):
    made = []
    result_of = element_by_element.result_of
    monkeypatch.setattr(element_by_element, "result_of", lambda *a: made.append(result_of(*a)) or made[-1])
    with torch.device("meta"), CheapResults():
        TABLES["rotary"]()
    assert [result is not None for result in made] == [True, True, True]


@pytest.mark.parametrize("wrong", [lambda: torch.arange(9, 2), lambda: torch.arange(1, 2, 0)])
def test_what_pytorch_refuses_is_refused(wrong):
    with torch.device("meta"), CheapResults(), pytest.raises(RuntimeError):
        wrong()


def test_a_table_made_of_weights_keeps_its_gradient():
    with torch.device("meta"), CheapResults():
        weight = nn.Parameter(torch.ones(3))
        assert (weight * 2).requires_grad
        with torch.no_grad():
            assert not (weight * 2).requires_grad
