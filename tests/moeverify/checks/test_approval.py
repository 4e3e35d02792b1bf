"""Approval is earned: every output agrees, and every tensor that was cut was seen to matter."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import moeverify as mv
from moeverify.checks.evidence.agreement import agreement
from moeverify.models.outputs import float_outputs
from moeverify.verdict import Status

EVEN, ODD = slice(0, None, 2), slice(1, None, 2)


def verdict(model, inputs, subject="moe", check="masked-equivalence"):
    torch.manual_seed(0)
    result = mv.verify(model, example_inputs=inputs, subject=subject, checks=[check])
    return result.verdicts[-1]


def cut(layer, *, rows=None, columns=None):
    """Keep some rows and columns of a linear layer."""
    weight = layer.weight.detach()
    if rows is not None:
        weight = weight[rows]
        layer.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach()[rows].clone())
    if columns is not None:
        weight = weight[:, columns]
    layer.weight = nn.Parameter(weight.clone())
    layer.out_features, layer.in_features = layer.weight.shape


@dataclass
class Detection:
    score: torch.Tensor
    boxes: list


class Heads(nn.Module):
    """A scalar first, then what counts, in a dictionary or a dataclass."""

    def __init__(self, form):
        super().__init__()
        self.middle, self.loss, self.main = nn.Linear(6, 12), nn.Linear(12, 1), nn.Linear(12, 4)
        self.form = form

    def forward(self, x):
        hidden = F.gelu(self.middle(x))
        loss, main = self.loss(hidden).mean(), self.main(hidden)
        if self.form == "tuple":
            return loss, (main, hidden.argmax())
        if self.form == "dict":
            return {"loss": loss, "parts": {"main": main}}
        return Detection(loss, [main])


def of_main(wrong):
    def subject(model, inputs, *, pruning_ratio, seed):
        cut(model.middle, rows=EVEN)
        cut(model.loss, columns=EVEN)
        cut(model.main, columns=ODD if wrong else EVEN)

    return subject


@pytest.mark.parametrize(
    ("form", "name"), [("tuple", "output 2[0]"), ("dict", "parts.main"), ("dataclass", "boxes[0]")]
)
def test_every_output_counts(form, name):
    found = verdict(Heads(form), torch.randn(5, 6), of_main(wrong=True))
    assert found.status is Status.FAIL
    assert found.message.startswith(f"{name} differs from the masked original by")
    assert verdict(Heads(form), torch.randn(5, 6), of_main(wrong=False)).status is Status.PASS


def test_complex_outputs_count_and_integers_do_not():
    found = float_outputs((torch.ones(2, dtype=torch.long), {"a": torch.ones(2, dtype=torch.complex64)}, None))
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {"output 2.a": (2, 2)}


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(7, 12), nn.GELU(), nn.Linear(12, 5))
        self.join, self.middle, self.last = nn.Linear(5, 6), nn.Linear(6, 10), nn.Linear(10, 3)

    def forward(self, x, image=None):
        if image is not None:
            x = x + self.join(self.tower(image))
        return self.last(F.gelu(self.middle(x)))


def of_tower(model, inputs, *, pruning_ratio, seed):
    """The middle rightly, the tower wrongly."""
    cut(model.middle, rows=EVEN)
    cut(model.last, columns=EVEN)
    cut(model.tower[0], rows=EVEN)
    cut(model.tower[2], columns=ODD)


def test_tensors_that_no_input_reaches_are_named():
    found = verdict(Tower(), {"x": torch.randn(5, 6)}, of_tower)
    assert found.status is Status.INCONCLUSIVE
    assert found.evidence["unseen"] == ["tower.0.weight", "tower.0.bias", "tower.2.weight"]
    assert "tower.0.weight, tower.0.bias, tower.2.weight were cut and no input used them" in found.message


def test_what_inputs_reach_is_judged():
    found = verdict(Tower(), {"x": torch.randn(5, 6), "image": torch.randn(5, 7)}, of_tower)
    assert found.status is Status.FAIL, found.message


class Steps(nn.Module):
    """The gate decides by its sign alone: no gradient, though everything depends on it."""

    def __init__(self):
        super().__init__()
        self.middle, self.gate, self.last = nn.Linear(6, 12), nn.Linear(12, 1), nn.Linear(12, 3)

    def forward(self, x):
        hidden = F.relu(self.middle(x))
        return self.last(hidden) * (self.gate(hidden) > 0)


def of_steps(model, inputs, *, pruning_ratio, seed):
    cut(model.middle, rows=EVEN)
    cut(model.gate, columns=EVEN)
    cut(model.last, columns=EVEN)


def test_what_has_no_gradient_is_seen_by_perturbation():
    found = verdict(Steps(), torch.randn(40, 6), of_steps)
    assert (found.status, found.evidence["unseen"]) == (Status.PASS, []), found.message


def test_channels_that_do_not_matter_prove_nothing():
    model = Steps()
    with torch.no_grad():
        model.middle.bias[ODD], model.middle.weight[ODD] = -1.0, 0.0  # off for every input
    found = verdict(model, torch.randn(40, 6), of_steps)
    assert found.status is Status.INCONCLUSIVE
    assert "the removed channels did not matter" in found.message


class Cache(nn.Module):
    """Returns its keys, which shrink with the heads' channels."""

    def __init__(self):
        super().__init__()
        self.q, self.k = nn.Linear(8, 6), nn.Linear(8, 6)

    def forward(self, x):
        queries, keys = self.q(x), self.k(x)
        return queries @ keys.transpose(1, 2), keys


def of_cache(model, inputs, *, pruning_ratio, seed):
    cut(model.q, rows=EVEN)
    cut(model.k, rows=EVEN)


def test_an_output_that_shrank_is_a_selection_of_the_original():
    assert verdict(Cache(), torch.randn(2, 5, 8), of_cache).status is Status.PASS


def outputs(**tensors):
    return {name: torch.tensor(values) for name, values in tensors.items()}


def test_what_the_original_has_not_finite_is_no_difference():
    inf, nan = float("inf"), float("nan")
    before = outputs(y=[1.0, -inf, nan])
    same = agreement(outputs(y=[1.0, -inf, 3.0]), outputs(y=[1.0, -inf, nan]), before)
    assert (same.error, same.wrong, same.blind) == (0.0, "", "")
    assert agreement(outputs(y=[1.0, 2.0, nan]), before, before).wrong == (
        "y holds NaN or infinity where the original does not"
    )
    assert agreement(outputs(y=[nan, -inf, nan]), before, before).wrong
    assert agreement(outputs(y=[1.0]), outputs(y=[nan]), outputs(y=[1.0])).blind
    assert "alone" in agreement(outputs(y=[1.0], z=[1.0]), outputs(y=[1.0]), outputs(y=[1.0])).wrong
    assert "has shape [1]" in agreement(outputs(y=[5.0]), outputs(y=[1.0, 2.0]), outputs(y=[1.0, 2.0])).wrong


def test_strict_makes_inconclusive_a_failure():
    arguments = {"example_inputs": {"x": torch.randn(5, 6)}, "subject": of_tower}
    checks = ["terminates", "masked-equivalence"]
    assert mv.verify(Tower(), **arguments, checks=checks).exit_code == 0
    assert mv.verify(Tower(), **arguments, checks=checks, strict=True).exit_code == 1
