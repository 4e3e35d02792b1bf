"""The soundness guards of the trace, each on small models that are wrong without it."""

import pytest
import torch
from torch import nn

import moeverify as mv


class Untouched(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.unused = nn.Linear(4, 7), nn.Linear(7, 3), nn.Linear(7, 2)

    def forward(self, x):
        return self.b(self.a(x))


def test_untouched_parameter_vetoes_its_sizes():
    found = mv.trace_couplings(Untouched(), torch.randn(2, 4))
    assert not found.classes
    assert any(f.parameter == "a.weight" and f.dim == 0 and "unused.weight" in f.reason for f in found.frozen)


class UntouchedPart(nn.Module):
    """Nothing says that the norm belongs to the last four of the projection."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(4, 10), nn.Linear(6, 3), nn.LayerNorm(4)

    def forward(self, x, threshold=1e9):
        left, right = self.a(x).split([6, 4], dim=-1)
        right = self.norm(right) if x.shape[0] > threshold else right
        return self.b(left) + right.mean(-1, keepdim=True)


def test_untouched_parameter_vetoes_parts_of_its_size():
    found = mv.trace_couplings(UntouchedPart(), torch.randn(2, 4))
    (left,) = found.classes
    assert {m.parameter: m.positions.tolist() for m in left.members}["a.weight"] == [[p] for p in range(6)]
    assert all("norm" in f.reason for f in found.frozen if f.parameter == "a.weight" and f.dim == 0)


class MetadataInPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 6)

    def forward(self, x):
        y = self.a(x)
        y.t_()
        return self.b(y.clone())


def test_in_place_metadata_change_freezes():
    found = mv.trace_couplings(MetadataInPlace(), torch.randn(6, 4))
    assert not any("a.weight" in c.parameters for c in found.classes)


class Restrided(nn.Module):
    """Strides set in place: of a dimension of size 1, as pooling does for memory formats, or rows to columns."""

    def __init__(self, stride):
        super().__init__()
        self.stride = stride
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        y = self.a(x).unsqueeze(-1)
        y.as_strided_((6, 6, 1), self.stride)
        return self.b(y.squeeze(-1).clone())


@pytest.mark.parametrize(("stride", "live"), [((6, 1, 1), True), ((6, 1, 6), True), ((1, 6, 1), False)])
def test_strides_set_in_place_freeze_unless_nothing_moved(stride, live):
    found = mv.trace_couplings(Restrided(stride), torch.randn(6, 4))
    assert {c.parameters for c in found.classes} == ({frozenset({"a.weight", "a.bias", "b.weight"})} if live else set())
    assert live or any("shape was changed in place" in f.reason for f in found.frozen)


class DataExchanged(nn.Module):
    """Rows become columns behind the tensor's back: same shape, same object."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        y = self.a(x)
        y.data = y.data.t()
        return self.b(y * 2)


def test_exchanged_data_freezes():
    found = mv.trace_couplings(DataExchanged(), torch.randn(6, 4))
    assert not any("a.weight" in c.parameters for c in found.classes)


def test_a_freeze_names_the_line_that_asked_for_it():
    class Sorted(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.b(self.a(x).sort(-1).values)

    line = Sorted.forward.__code__.co_firstlineno + 1
    (frozen,) = [
        f for f in mv.trace_couplings(Sorted(), torch.randn(2, 4)).frozen if (f.parameter, f.dim) == ("a.weight", 0)
    ]
    assert frozen.line.endswith(f"test_guards.py:{line}")
    assert str(frozen).endswith(f"test_guards.py:{line})")
