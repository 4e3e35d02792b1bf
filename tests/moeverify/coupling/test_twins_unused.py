"""Parameters that no forward uses go as those of a twin in the same list do; without a twin they veto their sizes."""

import copy

import pytest
import torch
from masked_original import difference
from torch import nn
from torch.nn import functional as F

import moeverify as mv

X = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))


class Unit(nn.Module):
    """An MLP that leaves its gate out where it is not gated."""

    def __init__(self, gated):
        super().__init__()
        self.gated = gated
        self.up, self.gate, self.down = (nn.Linear(*s) for s in ((10, 14), (10, 14), (14, 10)))

    def forward(self, x):
        up = self.up(x)
        return self.down(up * F.silu(self.gate(x)) if self.gated else F.gelu(up))


class Mixture(nn.Module):
    """Experts of two kinds, and shared units of which the last is never called."""

    def __init__(self, same=True):
        super().__init__()
        self.proj, self.router, self.head = nn.Linear(10, 10), nn.Linear(10, 3), nn.Linear(10, 2)
        self.experts = nn.ModuleList(Unit(gated) for gated in (True, False, True))
        self.common = nn.ModuleList([Unit(True), Unit(True) if same else nn.Linear(10, 14)])

    def forward(self, x):
        x = self.proj(x)
        weights = self.router(x).softmax(-1)
        out = sum(weights[:, n, None] * expert(x) for n, expert in enumerate(self.experts))
        return self.head(x + out + self.common[0](x))


def mixture(**arguments):
    torch.manual_seed(0)
    return Mixture(**arguments).eval()


def test_an_unused_matrix_of_an_expert_goes_with_its_channels():
    classes = mv.trace_couplings(mixture(), X).classes
    (inner,) = (c for c in classes if ("experts.1.up.weight", 0) in {(m.parameter, m.dim) for m in c.members})
    places = {(m.parameter, m.dim) for m in inner.members}
    assert {("experts.1.gate.weight", 0), ("experts.1.gate.bias", 0), ("experts.1.down.weight", 1)} <= places
    assert all(name.startswith("experts.1.") for name, _ in places)


def test_a_member_that_is_never_called_keeps_the_shape_of_its_twin():
    model = mixture()
    original = copy.deepcopy(model)
    plan = mv.MoEPruner(model, X, pruning_ratio=0.5).step()
    assert {c.pruning_class.role for c in plan.cuts} >= {"routed_experts"}
    first, last = ({n: tuple(p.shape) for n, p in unit.named_parameters()} for unit in model.common)
    assert first == last
    assert {n: tuple(p.shape) for n, p in model.experts[1].named_parameters()} == first
    assert first["up.weight"] == (7, 5)
    assert difference(original, model, plan, X) < 1e-12
    assert model.common[1](torch.randn(3, first["up.weight"][1])).shape[-1] == first["down.weight"][0]


def test_without_a_twin_it_vetoes_its_sizes():
    found = mv.trace_couplings(mixture(same=False), X)
    assert "common.1.weight" in found.trace.untouched
    assert any("common.1" in f.reason for f in found.frozen if f.parameter == "experts.0.up.weight")


def test_what_no_input_used_is_not_approved():
    result = mv.verify("twin_models:make", checks=["masked-equivalence"])
    (verdict,) = result.verdicts
    assert verdict.status is mv.Status.INCONCLUSIVE
    assert "common.1.up.weight" in str(verdict.evidence)


@pytest.fixture(autouse=True)
def _as_a_module(monkeypatch, tmp_path):
    """The model as a source that a process of its own can load."""
    (tmp_path / "twin_models.py").write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(__file__).rpartition('/')[0]!r})\n"
        "from test_twins_unused import X, mixture\n"
        "def make():\n    return mixture(), X\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
