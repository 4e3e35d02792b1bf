"""An unreached expert whose relations are copied has the classes of one that is run."""

import pytest
import torch
from torch import nn

import moeverify as mv
from moeverify.coupling.tracing.siblings import Siblings, alike


class Gated(nn.Module):
    """Gate and up in one matrix, a buffer, and a result that leaves the dispatcher."""

    def __init__(self, width=6, scale=2.0):
        super().__init__()
        self.scale = scale
        self.both = nn.Linear(8, 2 * width)
        self.aside = nn.Linear(8, 3, bias=False)
        self.down = nn.Linear(width, 8, bias=False)
        self.act = nn.SiLU()
        self.register_buffer("offset", torch.ones(width))

    def forward(self, x):
        gate, up = self.both(x).chunk(2, dim=-1)
        extra = float(self.aside(x).numpy().sum())
        return self.down(self.act(gate) * (up + self.offset)) * self.scale + extra


class Mixed(nn.Module):
    def __init__(self, experts):
        super().__init__()
        self.embed = nn.Embedding(9, 8)
        self.gate = nn.Linear(8, len(experts))
        self.experts = nn.ModuleList(experts)
        self.head = nn.Linear(8, 3)

    def forward(self, ids):
        x = self.embed(ids)
        return self.head(x + self.gate(x).softmax(-1)[..., :1] * self.experts[0](x))


def plain(couplings):
    classes = [[(m.parameter, m.dim, m.positions.tolist(), m.buffer) for m in c.members] for c in couplings.classes]
    frozen = [(f.parameter, f.dim, list(f.positions), f.reason) for f in couplings.frozen]
    return classes, frozen, dict(couplings.unknown_operations), couplings.trace.untouched


def counted(monkeypatch):
    count = {"_run": 0, "_copy": 0}
    for name in count:
        original = getattr(Siblings, name)

        def call(self, *arguments, name=name, original=original):
            count[name] += 1
            return original(self, *arguments)

        monkeypatch.setattr(Siblings, name, call)
    return count


def tied():
    experts = [Gated() for _ in range(4)]
    experts[2].down.weight = experts[0].down.weight
    experts[3].both.bias = experts[1].both.bias
    return experts


def unknown():
    class Inverse(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.b(torch.linalg.matrix_exp(self.a(x)[..., None] * self.a(x)[..., None, :])[..., 0])

    return [Inverse() for _ in range(3)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: [Gated() for _ in range(4)],
        tied,
        unknown,
        lambda: [nn.Identity(), nn.Identity()],
        lambda: [nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 8)) for _ in range(3)],
    ],
)
def test_copied_relations_give_the_classes_of_a_run(monkeypatch, make):
    torch.manual_seed(0)
    model, ids = Mixed(make()), torch.arange(5)
    count = counted(monkeypatch)
    copied = plain(mv.trace_couplings(model, ids))
    assert count["_copy"] == len(model.experts) - 1
    assert count["_run"] == 0
    monkeypatch.setattr(Siblings, "_exchanged", lambda *_: None)
    assert plain(mv.trace_couplings(model, ids)) == copied
    assert count["_run"] == len(model.experts) - 1


def test_what_left_the_dispatcher_is_frozen_in_the_copy_too():
    couplings = mv.trace_couplings(Mixed([Gated(), Gated()]), torch.arange(5))
    for number in range(2):
        frozen = couplings.explain(f"experts.{number}.aside.weight", 0, 1).frozen
        assert "leaves PyTorch by numpy" in frozen.reason
        assert couplings.explain(f"experts.{number}.down.weight", 1, 2).together


def test_chains_of_a_copy_name_its_own_modules():
    couplings = mv.trace_couplings(Mixed([Gated(), Gated()]), torch.arange(5))
    answer = couplings.explain("experts.1.down.weight", 1, 2)
    modules = {step.module for partner in answer.together for step in partner.chain}
    assert {"experts.1.act", "experts.1.both"} <= modules
    assert not any(module.startswith("experts.0") for module in modules)


def hooked():
    module = Gated()
    module.register_forward_hook(lambda *_: None)
    return module


def flag():
    module = Gated()
    module.forward = module.forward  # an attribute of its own may do anything
    return module


@pytest.mark.parametrize("make", [lambda: Gated(7), lambda: Gated(scale=3.0), hooked, flag])
def test_experts_that_differ_are_run(monkeypatch, make):
    other = make()
    assert alike(Gated(), Gated())
    assert not alike(Gated(), other)
    count = counted(monkeypatch)
    mv.trace_couplings(Mixed([Gated(), other]), torch.arange(5))
    assert count == {"_run": 1, "_copy": 0}
