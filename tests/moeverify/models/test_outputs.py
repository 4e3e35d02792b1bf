"""Outputs in containers of a model's own: dataclasses, mappings, plain objects."""

from collections import UserDict
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from judged import problems, verdicts
from torch import nn

from moeverify.models.outputs import leaves, tensor_outputs


@dataclass
class Record:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


class Plain:
    def __init__(self, **parts):
        self.__dict__ |= parts


class Keyed(dict):
    """A dictionary of a class of its own, which PyTorch's pytree takes for a leaf."""


CONTAINERS = {
    "dataclass": Record,
    "namespace": SimpleNamespace,
    "object": Plain,
    "dictionary of its own": Keyed,
    "mapping": lambda **parts: UserDict(parts),
    "nested": lambda logits, loss: {"all": [Record(logits), SimpleNamespace(loss=loss)]},
}


class Net(nn.Module):
    def __init__(self, container):
        super().__init__()
        self.embed, self.gate, self.head = nn.Embedding(30, 12), nn.Linear(12, 4), nn.Linear(12, 20)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 12)) for _ in range(4))
        self.container = container

    def forward(self, ids):
        x = self.embed(ids)
        probs = self.gate(x).softmax(-1)
        x = x + sum(probs[..., n, None] * expert(x) for n, expert in enumerate(self.experts))
        return self.container(logits=self.head(x), loss=probs.square().mean())


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
def test_outputs_are_seen_and_stay(container):
    torch.manual_seed(0)
    model = Net(container)
    assert problems(verdicts(model, (torch.randint(0, 30, (2, 12)),))) == {}
    assert model.head.weight.shape == (20, 4)


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
def test_both_ways_to_read_an_output_find_the_same_tensors(container):
    output = container(logits=torch.ones(2), loss=torch.zeros(()))
    seen = [leaf for leaf in leaves(output) if isinstance(leaf, torch.Tensor)]
    assert list(map(id, seen)) == list(map(id, tensor_outputs(output).values()))
    assert len(seen) == 2


def test_an_object_inside_of_an_output_is_no_output():
    """It may be a cache, which is state."""
    cache = Plain(keys=torch.ones(2))
    assert list(tensor_outputs({"logits": torch.ones(2), "cache": cache})) == ["logits"]
    assert cache in list(leaves({"cache": cache}))
