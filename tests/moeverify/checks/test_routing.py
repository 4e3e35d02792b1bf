"""How near a choice by ``topk`` was."""

import pytest
import torch

from moeverify.checks.evidence.routing import Routing
from moeverify.models.roles import find_roles


def margin(scores, k=1):
    with Routing(torch.nn.Identity(), find_roles(torch.nn.Identity())) as seen:
        torch.tensor(scores, dtype=torch.float64).topk(k)
    return seen.margin


def test_the_margin_is_relative_to_the_largest_score():
    assert margin([[4.0, 3.0, 1.0]]) == pytest.approx(0.25)
    # Rounding beside a large score is a near-tie, though the two differ by all of their own size.
    assert margin([[1.0, 1e-17, 3e-17]], k=2) < 1e-15


def test_exactly_equal_scores_are_no_near_tie():
    assert margin([[0.0, 0.0, 0.0]]) == float("inf")
    assert margin([[1.0, 0.0, 0.0], [4.0, 3.0, 0.0]], k=2) == pytest.approx(0.75)
    assert margin([[1.0, float("-inf"), float("-inf")]], k=2) == float("inf")
