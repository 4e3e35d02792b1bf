"""The soundness guards of the trace, each on small models that are wrong without it."""

import ctypes

import pytest
import torch
from torch import nn

import moeverify as mv
from moeverify.coupling.solving.cuts import CUT_BY_NUMBER
from moeverify.models.zoo import build_zoo


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


class LeavesDispatcher(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(4, 2)

    def forward(self, x):
        return self.b(x) + float(self.a(x).numpy().sum())


def test_data_that_leaves_the_dispatcher_freezes():
    found = mv.trace_couplings(LeavesDispatcher(), torch.randn(3, 4))
    assert not found.classes


class LeavesUnseen(nn.Module):
    """As a kernel of one's own does: the memory is read, and no method of the tensor says so."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(4, 2)

    def forward(self, x):
        storage = self.a(x).untyped_storage()
        return self.b(x) + len(set(ctypes.string_at(storage.data_ptr(), storage.nbytes())))


def test_data_that_leaves_unseen_freezes():
    found = mv.trace_couplings(LeavesUnseen(), torch.randn(3, 4))
    assert not found.classes


class PartLeavesDispatcher(nn.Module):
    """Half of a result leaves as a view, while its storage stays in use."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        y = self.a(x)
        left = y[:, :3].numpy().sum()
        return self.b(y) + float(left)


def test_a_view_that_leaves_the_dispatcher_freezes():
    found = mv.trace_couplings(PartLeavesDispatcher(), torch.randn(3, 4))
    stuck = {(f.parameter, f.dim): f.positions for f in found.frozen}
    assert set(range(3)) <= set(stuck["a.weight", 0])


class EqualSplit(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 10), nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x):
        left, right = self.a(x).chunk(2, dim=-1)
        return self.b(left) + self.c(right)


def test_equal_split_with_independent_consumers_is_balanced():
    found = mv.trace_couplings(EqualSplit(), torch.randn(2, 4))
    assert not found.classes


class HalvesBySlices(nn.Module):
    """The bounds follow the size: after pruning the left half alone they would lie elsewhere."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 10), nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x):
        y = self.a(x)
        half = y.shape[-1] // 2
        return self.b(y[..., :half]) + self.c(y[..., half:])


def test_halves_by_slices_are_balanced():
    found = mv.trace_couplings(HalvesBySlices(), torch.randn(2, 4))
    assert not found.classes


class ConstantSlices(nn.Module):
    """Bounds that are numbers: after pruning, a sum of the first ``width`` would take in others without failing."""

    def __init__(self, width):
        super().__init__()
        self.width = width
        self.a, self.b = nn.Linear(4, 10), nn.Linear(2, 3)

    def forward(self, x):
        y = self.a(x)
        left, right = y[:, : self.width], y[:, self.width :]
        return self.b(torch.cat([left.sum(-1, keepdim=True), right.sum(-1, keepdim=True)], dim=-1))


@pytest.mark.parametrize("width", [3, 5, 7])
def test_slices_whose_size_nothing_shares_are_frozen(width):
    found = mv.trace_couplings(ConstantSlices(width), torch.randn(2, 4))
    assert not any("a.weight" in c.parameters for c in found.classes)
    frozen = {f.reason for f in found.frozen if f.parameter == "a.weight" and f.dim == 0}
    assert frozen == {CUT_BY_NUMBER}


class ProductOfSlices(nn.Module):
    """Two slices of one dimension meet, and nothing else has their size."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 10), nn.Linear(1, 3)

    def forward(self, x):
        y = self.a(x)
        return self.b((y[:, :3] * y[:, 3:6]).sum(-1, keepdim=True))


def test_slices_that_share_a_size_with_slices_alone_are_frozen():
    assert not mv.trace_couplings(ProductOfSlices(), torch.randn(2, 4)).classes


class SlicesWithConsumers(nn.Module):
    """A bound that did not follow would not fit the consumers: nothing need be held."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 10), nn.Linear(3, 2), nn.Linear(7, 2)

    def forward(self, x):
        y = self.a(x)
        return self.b(y[:, :3]) + self.c(y[:, 3:])


def test_slices_with_consumers_of_their_own_stay_live():
    found = mv.trace_couplings(SlicesWithConsumers(), torch.randn(2, 4))
    assert sorted((c.size, tuple(sorted(c.parameters))) for c in found.classes) == [
        (3, ("a.bias", "a.weight", "b.weight")),
        (7, ("a.bias", "a.weight", "c.weight")),
    ]


class GatedHalves(nn.Module):
    """Halves that meet again shrink alike."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 10), nn.Linear(5, 3)

    def forward(self, x):
        y = self.a(x)
        half = y.shape[-1] // 2
        return self.b(y[..., :half].sigmoid() * y[..., half:])


def test_halves_that_meet_again_are_pairs():
    (found,) = mv.trace_couplings(GatedHalves(), torch.randn(2, 4)).classes
    by_name = {m.parameter: m.positions.tolist() for m in found.members}
    assert by_name["a.weight"] == [[p, p + 5] for p in range(5)]
    assert by_name["b.weight"] == [[p] for p in range(5)]


class FusedProjection(nn.Module):
    """Queries, keys and values from one projection, cut in thirds by ``chunk``; ``joint`` if they meet again."""

    def __init__(self, joint=True):
        super().__init__()
        self.qkv, self.out, self.joint = nn.Linear(6, 24), nn.Linear(8, 3), joint

    def forward(self, x):
        query, key, value = (part.view(*x.shape[:-1], 4, 2).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        if not self.joint:  # the queries' heads meet nothing else
            return self.out(query.transpose(1, 2).flatten(2)) + key.mean(1).sum() + value.sum()
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))


def test_parts_of_an_equal_split_that_lose_the_same_heads_shrink_alike():
    found = mv.trace_couplings(FusedProjection(), torch.randn(2, 5, 6)).classes
    by_name = {(m.parameter, m.dim): m.positions.tolist() for c in found for m in c.members}
    heads = [[2 * h, 2 * h + 1] for h in range(4)]
    assert by_name["out.weight", 1] == heads
    assert by_name["qkv.weight", 0] == [[p + 8 * third for third in range(3) for p in head] for head in heads]


def test_parts_of_an_equal_split_with_heads_of_their_own_are_balanced():
    found = mv.trace_couplings(FusedProjection(joint=False), torch.randn(2, 5, 6))
    assert not [m for c in found.classes for m in c.members if (m.parameter, m.dim) == ("qkv.weight", 0)]


class DropsByProducts(nn.Module):
    """As attention with sinks does (the indices of ``max``), and recurrences (the state after the last step)."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.state = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(4, 6)

    def forward(self, x):
        y, state = self.a(x), self.state(x)
        for _ in range(2):
            y, state = y + state, state * 0.5 + y
        return self.b(y - y.max(dim=0, keepdim=True).values)


def test_by_products_that_are_thrown_away_freeze_nothing():
    found = mv.trace_couplings(DropsByProducts(), torch.randn(3, 4))
    assert [sorted(c.parameters) for c in found.classes] == [
        ["a.bias", "a.weight", "b.weight", "state.bias", "state.weight"]
    ]


class ReadsAndDrops(LeavesUnseen):
    """What leaves unseen comes back in a tensor that was there before."""

    def forward(self, x):
        result = self.b(x)
        storage = self.a(x).untyped_storage()
        total = sum(ctypes.string_at(storage.data_ptr(), storage.nbytes()))
        ctypes.c_float.from_address(result.data_ptr()).value += total
        return result * 2


def test_data_that_comes_back_unseen_freezes():
    found = mv.trace_couplings(ReadsAndDrops(), torch.randn(3, 4))
    assert not found.classes


def test_the_second_look_leaves_random_numbers_and_weights_alone():
    model, x = DropsByProducts(), torch.randn(3, 4)
    weights = {name: p.clone() for name, p in model.named_parameters()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    mv.trace_couplings(model, x)
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("reads", [False, True])
def test_an_address_whose_alignment_alone_is_looked_at_freezes_nothing(monkeypatch, reads):
    """With torch up to 2.10 transformers does so before each grouped product on a processor."""
    from transformers.integrations import moe

    monkeypatch.setattr(moe, "is_torch_less_or_equal", lambda release, **_: release == "2.10.0")
    if reads:
        namespace = {"__name__": "elsewhere"}
        exec("def look(tensor):\n    return tensor.data_ptr()", namespace)
        monkeypatch.setattr(moe, "is_torchdynamo_compiling", lambda: False)
        monkeypatch.setattr(moe, "_can_use_grouped_mm", lambda given, weight, offs: bool(namespace["look"](weight)))
    found = mv.trace_couplings(build_zoo("mixtral"), {"input_ids": torch.arange(24).view(2, 12)})
    stacks = {f.parameter for f in found.frozen if "data_ptr" in f.reason}
    assert any("experts.gate_up_proj" in name for name in stacks) == reads
    assert any("experts.gate_up_proj" in name for c in found.classes for name in c.parameters) != reads


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
