"""Outputs and inputs in containers of a model's own: dataclasses, mappings, plain objects."""

from collections import UserDict
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from judged import problems, verdicts
from torch import nn

from moeverify.models.containers import leaves, map_leaves
from moeverify.models.outputs import tensor_outputs
from moeverify.verdict import Status


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


@dataclass(frozen=True)
class Batch:
    x: torch.Tensor
    scale: float = 2.0


class OfBatches(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Net(Record)
        self.inner.embed = nn.Linear(10, 12)

    def forward(self, batch):
        return self.inner(batch["x"] if isinstance(batch, UserDict) else batch.x)


BATCHES = {"dataclass": Batch, "namespace": SimpleNamespace, "mapping": lambda **parts: UserDict(parts)}


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_inputs_are_drawn_and_cast(batch):
    torch.manual_seed(0)
    assert problems(verdicts(OfBatches(), (batch(x=torch.randn(3, 8, 10)),))) == {}


def test_leaves_are_changed_in_containers_of_the_same_classes():
    given = [Batch(torch.ones(2)), {"a": SimpleNamespace(b=torch.ones(2))}, UserDict(c=torch.ones(2)), None, 3]
    changed = map_leaves(lambda x: x + 1 if isinstance(x, torch.Tensor) else x, given)
    assert [float(x[0]) for x in leaves(changed) if isinstance(x, torch.Tensor)] == [2.0, 2.0, 2.0]
    assert [type(x) for x in changed] == [type(x) for x in given]
    assert float(given[0].x[0]) == 1.0


def test_inputs_that_cannot_be_cast_are_no_fault_of_the_pruning():
    torch.manual_seed(0)
    found = verdicts(OfBatches(), (Plain(x=torch.randn(3, 8, 10)),))
    unseen = {name for name, verdict in found.items() if verdict.status is Status.INCONCLUSIVE}
    assert unseen == {"coupling-complete", "coupling-minimal", "masked-equivalence"} == set(problems(found))
    assert found["coupling-minimal"].message.startswith("the original gives no gradients in float64: RuntimeError")
