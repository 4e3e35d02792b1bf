"""``shapes`` and ``kernel-ready`` look at every output."""

import copy
import types

import pytest
import torch
from torch import nn

from moeverify.checks import CHECKS
from moeverify.checks.context import Context
from moeverify.checks.evidence.shrunk import shrunk_dim
from moeverify.models.sources import load_source
from moeverify.subjects import Pruned, load_subject
from moeverify.verdict import Status

EVEN = slice(0, None, 2)


class Decoder(nn.Module):
    """Logits, a second head, the keys of two heads as a cache has them, and how many scores are above zero."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.head, self.second = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 5), nn.Linear(6, 8)

    def forward(self, x):
        q, k = (layer(x).unflatten(-1, (-1, 4)).transpose(1, 2) for layer in (self.q, self.k))
        y = (q @ k.transpose(2, 3)).mean(1).softmax(-1) @ x
        logits = self.head(y)
        return {
            "logits": logits,
            "second": self.second(y),
            "keys": k,
            "best": logits.argmax(-1),
            "high": logits[logits > 0],
        }


def cut(layer, rows):
    layer.weight = nn.Parameter(layer.weight.detach()[rows].clone())
    layer.bias = nn.Parameter(layer.bias.detach()[rows].clone())
    layer.out_features = len(layer.weight)


def finding(change, model=None):
    torch.manual_seed(0)
    original = (model or Decoder()).eval()
    pruned = copy.deepcopy(original)
    change(pruned)
    inputs = {"x": torch.randn(2, 7, 6)}
    return CHECKS["shapes"](Context("a test", original, pruned, inputs, Pruned(), 0.5, 0, "float32"))


def test_a_cache_shrinks_with_heads_that_the_logits_use():
    def one_head(model):
        cut(model.q, slice(4, 8))
        cut(model.k, slice(4, 8))

    found = finding(one_head)
    assert found.status is Status.PASS, found.message
    assert found.evidence["caveat"]
    assert "keys shrank from [2, 2, 7, 4] to [2, 1, 7, 4] with channels that other outputs use" in found.message


def test_classes_of_a_head_do_not_go():
    found = finding(lambda model: cut(model.head, EVEN))
    assert (found.status, found.message) == (Status.FAIL, "logits has shape [2, 7, 3], it had [2, 7, 5]")
    found = finding(lambda model: cut(model.second, EVEN))
    assert found.status is Status.FAIL
    assert found.message == "second has shape [2, 7, 4], it had [2, 7, 8]; no other output uses what it lost"


def test_a_second_head_that_goes_beside_a_cache_is_seen():
    def both(model):
        for layer in (model.q, model.k, model.second):
            cut(layer, slice(4, 8))

    assert finding(both).message.startswith("second has shape [2, 7, 4], it had [2, 7, 8]")


def returns(change):
    """The forward as it is, with ``change`` applied to what it returns."""

    def of(model):
        model.forward = types.MethodType(lambda self, x: change(Decoder.forward(self, x)), model)

    return of


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda out: {**out, "best": out["best"][:, :3]}, "best has shape [2, 3], it had [2, 7]"),
        (lambda out: {**out, "second": out["second"].mT}, "second has shape [2, 8, 7], it had [2, 7, 8]"),
        (lambda out: {**out, "keys": out["keys"][:, :1]}, "keys has shape [2, 1, 7, 4], it had [2, 2, 7, 4], and no"),
        (lambda out: {**out, "keys": out["keys"] / 0}, "keys holds NaN or infinity"),
        (lambda out: {**out, "more": out["keys"]}, "more is returned by the pruned model alone"),
        (lambda out: {**out, "best": None}, "best is returned by the original alone"),
    ],
)
def test_every_output_is_looked_at(change, message):
    found = finding(returns(change))
    assert found.status in (Status.FAIL, Status.INCONCLUSIVE)
    assert message in found.message


def test_an_original_that_returns_more_each_time_is_no_fault_of_the_pruning():
    class Growing(Decoder):
        calls = 0

        def forward(self, x):
            Growing.calls += 1
            return super().forward(x) | {f"score {n}": x.mean() + Growing.calls for n in range(Growing.calls)}

    found = finding(lambda model: None, Growing())
    assert found.status is Status.INCONCLUSIVE, found.message


def test_a_size_that_depends_on_the_data_is_free():
    assert finding(returns(lambda out: {**out, "high": out["high"][:-1]})).status is Status.PASS


def test_infinities_of_the_original_are_its_own():
    class Masked(Decoder):
        def forward(self, x):
            return super().forward(x) | {"mask": torch.full((3, 3), float("-inf")).triu(1)}

    assert finding(lambda model: None, Masked()).status is Status.PASS


def test_only_one_smaller_dimension_counts_as_shrunk():
    assert shrunk_dim((2, 8), (2, 4)) == 1
    assert [shrunk_dim((2, 8), other) for other in ((2, 9), (1, 4), (2, 8, 1), (2, 8))] == [None] * 4


def test_implementations_agree_in_every_output():
    loaded = load_source("zoo:mixtral")
    original = copy.deepcopy(loaded.model)
    load_subject("moe")(loaded.model, loaded.example_inputs, pruning_ratio=0.5, seed=0)
    forward = loaded.model.forward

    def twice(*args, **kwargs):
        out = forward(*args, **kwargs)
        shift = 0.1 * (loaded.model.config._experts_implementation == "grouped_mm")
        return {"logits": out.logits, "other": out.logits + shift}

    loaded.model.forward = twice
    context = Context("zoo:mixtral", original, loaded.model, loaded.example_inputs, Pruned(), 0.5, 0, "float32")
    found = CHECKS["kernel-ready"](context)
    assert found.status is Status.FAIL
    assert "with grouped_mm experts" in found.message
