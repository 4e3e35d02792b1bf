"""What the original does as well is said of it, and is no fault of the pruning: state, chance, failures."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import moeverify as mv
from moeverify.checks.evidence.behaviour import observe
from moeverify.models.state import SavedState, same_start
from moeverify.verdict import Status


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)

    def hidden(self, x):
        return F.gelu(self.first(x))

    def forward(self, x):
        return self.last(self.hidden(x))


class Counting(Net):
    """Each call scales by how many there were, in a buffer, an attribute and a cache."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.number, self.cache = 0, []

    def forward(self, x):
        self.calls += 1
        self.number += 1
        self.cache.append(float(x.sum()))
        return super().forward(x) * self.calls * self.number + len(self.cache)


class Noisy(Net):
    """Noise of the input's shape, drawn in evaluation as well."""

    def forward(self, x):
        return super().forward(x + torch.randn_like(x) + random.random())


class NoisyInside(Net):
    """Noise on channels that are pruned."""

    def hidden(self, x):
        hidden = super().hidden(x)
        return hidden + torch.randn_like(hidden)


class Elsewhere(Net):
    """Depends on a counter that no state of the model holds."""

    calls = 0

    def forward(self, x):
        Elsewhere.calls += 1
        return super().forward(x) * Elsewhere.calls


class Picky(Net):
    """Runs on the example alone."""

    def forward(self, x):
        if x.abs().max() > 1:
            raise ValueError("values between -1 and 1, please")
        return super().forward(x)


class Endless(Net):
    def forward(self, x):
        return super().forward(x) / 0


def halve(model, inputs, *, pruning_ratio, seed):
    """Cut the middle to every other channel; a forward before may have changed the model's state."""
    with torch.no_grad():
        model(inputs)
        model.first.weight = nn.Parameter(model.first.weight[::2].clone())
        model.first.bias = nn.Parameter(model.first.bias[::2].clone())
        model.last.weight = nn.Parameter(model.last.weight[:, ::2].clone())
    model.first.out_features = model.last.in_features = 8


def verdicts(model, inputs, checks=("masked-equivalence", "deterministic"), subject="moe"):
    result = mv.verify(model.eval(), example_inputs=inputs, checks=list(checks), subject=subject)
    return {v.check: v for v in result.verdicts}, result.cases[0].facts["notes"]


@pytest.mark.parametrize("subject", ["moe", halve])
@pytest.mark.parametrize("make", [Counting, Noisy])
def test_state_and_chance_are_controlled(make, subject):
    torch.manual_seed(0)
    checks = ("masked-equivalence", "untouched-identical", "deterministic")
    found, notes = verdicts(make(), torch.randn(4, 6), checks, subject)
    assert {v.message for v in found.values() if v.status is not Status.PASS} == set()
    wanted = {
        Counting: "this model changes calls, number, cache in its forward; such buffers are not compared",
        Noisy: "this model draws random numbers in evaluation, at randn_like.default in the model itself",
    }[make]
    assert wanted in notes


def test_random_numbers_on_pruned_channels_cannot_be_compared():
    found, _ = verdicts(NoisyInside(), torch.randn(4, 6), subject=halve)
    assert found["masked-equivalence"].status is Status.INCONCLUSIVE
    assert "draws random numbers in evaluation (randn_like.default" in found["masked-equivalence"].message


def test_a_model_that_does_not_repeat_gets_one_verdict_on_that():
    found, _ = verdicts(Elsewhere(), torch.randn(4, 6))
    assert {name: v.status for name, v in found.items()} == dict.fromkeys(found, Status.INCONCLUSIVE)
    assert "make the forward repeatable" in found["deterministic"].message
    assert found["masked-equivalence"].message.endswith("see deterministic")


def test_inputs_that_the_original_refuses_are_no_fault_of_the_pruning():
    found, _ = verdicts(Picky(), torch.rand(4, 6) / 2)
    assert found["masked-equivalence"].status is not Status.FAIL
    found, notes = verdicts(Endless(), torch.randn(4, 6))
    assert found["masked-equivalence"].status is Status.INCONCLUSIVE
    assert any("is not finite on drawn inputs" in note for note in notes)


def test_state_is_put_back():
    model = Counting()
    saved = SavedState(model)
    model(torch.randn(2, 6))
    model.register_buffer("more", torch.ones(1))
    model.first.note = 3
    assert {"calls", "number", "first.note"} <= set(saved.changed())
    saved.restore()
    assert (float(model.calls), model.number, model.cache) == (0.0, 0, [])
    assert "more" not in dict(model.named_buffers())
    assert not hasattr(model.first, "note")


def test_random_generators_are_put_back():
    torch.manual_seed(3)
    random.seed(3)
    before, python = torch.random.get_rng_state(), random.getstate()
    with same_start(nn.Identity(), 7):
        first = (torch.rand(1).item(), random.random())
    with same_start(nn.Identity(), 7):
        assert (torch.rand(1).item(), random.random()) == first
    assert torch.equal(torch.random.get_rng_state(), before)
    assert random.getstate() == python


def test_a_quiet_model_has_no_facts():
    assert observe(Net(), torch.randn(2, 6), 0).notes() == ()


class Captions(nn.Module):
    """Tokens beside an image of floats: both come in the precision that a check computes in."""

    def __init__(self):
        super().__init__()
        self.tokens, self.image = nn.Embedding(20, 8), nn.Linear(5, 8)
        self.middle, self.last = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, input_ids, image):
        hidden = self.tokens(input_ids).cumsum(1) + self.image(image)[:, None]
        return self.last(F.gelu(self.middle(hidden)))


def test_floats_beside_tokens_are_no_error_of_a_check():
    torch.manual_seed(0)
    inputs = {"input_ids": torch.randint(0, 20, (2, 6)), "image": torch.randn(2, 5)}
    found, _ = verdicts(Captions(), inputs, ("causal", "masked-equivalence"))
    assert {v.message for v in found.values() if v.status is not Status.PASS} == set()
