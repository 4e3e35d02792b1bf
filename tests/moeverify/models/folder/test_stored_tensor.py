"""Weights that stay in their files: values are read when an operation looks at them, and blocks take turns."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from moeverify.errors import MoEVerifyError
from moeverify.models.folder.headers import DTYPES
from moeverify.models.folder.stored_tensor import StoredTensor, values_of
from moeverify.models.folder.turns import Task, Turns
from moeverify.models.folder.writer import ShardWriter


class Source:
    def __init__(self, values):
        self.values, self.reads = values, 0

    def stored(self):
        return StoredTensor(torch.empty_like(self.values, device="meta"), self.read)

    def read(self):
        self.reads += 1
        return self.values


def test_views_of_stored_weights_read_nothing():
    source = Source(torch.randn(4, 3, 5))
    view = source.stored()[2].movedim(1, 0)[1:].unsqueeze(0).transpose(0, 1)
    assert source.reads == 0
    assert torch.equal(values_of(view), source.values[2].movedim(1, 0)[1:].unsqueeze(0).transpose(0, 1))
    assert source.reads == 1


def test_slices_along_the_first_dimension_read_their_rows_alone():
    source, asked = Source(torch.randn(8, 3, 5)), []

    def rows(first, last):
        asked.append((first, last))
        return source.values[first:last]

    stored = StoredTensor(torch.empty_like(source.values, device="meta"), source.read, read_rows=rows)
    view = stored.detach()[2:7][1:-1].movedim(2, 1)[:, 1:4]
    assert (asked, source.reads) == ([], 0)
    assert torch.equal(view.abs(), source.values[3:6].movedim(2, 1)[:, 1:4].abs())
    assert (asked, source.reads) == ([(3, 6)], 0)
    for part in (slice(None, None, 2), slice(4, 2), (slice(None), slice(1, 2))):
        assert torch.equal(stored[part].abs(), source.values[part].abs())
    assert (asked, source.reads) == ([(3, 6)], 3)


def test_operations_run_on_the_values():
    source = Source(torch.randn(4, 3))
    layer = nn.Linear(3, 4, bias=False, device="meta")
    layer.weight = nn.Parameter(source.stored(), requires_grad=False)
    inputs = torch.randn(2, 3)
    out = layer(inputs)
    assert type(out) is torch.Tensor
    assert torch.equal(out, inputs @ source.values.T)
    assert torch.equal(layer.weight.data[[3, 1]].abs().sum(1), source.values[[3, 1]].abs().sum(1))


def test_a_copy_is_an_ordinary_tensor():
    source = Source(torch.randn(3, 2))
    layer = nn.Linear(2, 3, bias=False, device="meta")
    layer.weight = nn.Parameter(source.stored(), requires_grad=False)
    again = copy.deepcopy(layer)
    assert again.weight is not layer.weight
    assert isinstance(again.weight, nn.Parameter)
    assert type(again.weight) is nn.Parameter
    assert torch.equal(again.weight, source.values)
    assert torch.equal(again.double()(torch.ones(1, 2).double()), source.values.double().sum(1)[None])


def test_values_cannot_be_changed():
    stored = Source(torch.zeros(2)).stored()
    with pytest.raises(MoEVerifyError, match="stays in its file"):
        stored.add_(1)


def test_tasks_share_the_block_in_memory():
    """Two tasks that go through all blocks, and one for each block: every block is held once."""
    order = {"a": 0, "b": 1, "c": 2}
    held, seen = [], []
    turns = Turns(held.append, order)

    def needs(name, blocks):
        def work():
            for block in blocks:
                if held[-1] != block:
                    turns.wait_for(block)
                seen.append((name, block))

        return work

    turns.run([Task("a", needs(1, "abc")), Task("a", needs(2, "abc")), *(Task(b, needs(b, b)) for b in "cab")])
    assert held == ["a", "b", "c"]
    assert [block for _, block in seen] == sorted(block for _, block in seen)
    assert len(seen) == 9


def test_a_block_that_was_passed_is_read_again():
    held, turns = [], None
    turns = Turns(held.append, {"a": 0, "b": 1})
    turns.run([Task("b", lambda: turns.wait_for("a")), Task("a", lambda: turns.wait_for("b"))])
    assert held == ["a", "b", "a"]


def test_an_error_ends_all_tasks():
    turns = Turns(lambda block: None, {"a": 0, "b": 1})
    ended = []

    def waits():
        try:
            turns.wait_for("b")
        finally:
            ended.append(True)

    def fails():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        turns.run([Task("a", waits), Task("a", fails)])
    assert ended == [True]
    turns.run([Task("a", lambda: ended.append(False))])  # and can be used again
    assert ended == [True, False]


def test_files_have_the_bytes_of_the_library(tmp_path):
    """All types, names out of order, scalars and empty tensors, written backwards."""
    tensors = {"scalar": torch.tensor(1.5), "empty": torch.empty(0, 3)}
    for number, dtype in enumerate(DTYPES.values()):
        values = torch.arange(3 * 16 * (number % 2 + 1), dtype=torch.uint8) % 2
        tensors |= {f"{letter}.é{number}": values.clone().view(dtype).reshape(3, -1) for letter in "ba"}
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    writer = ShardWriter(tmp_path / "ours", {name: t.to("meta") for name, t in tensors.items()})
    writer.create()
    for name in reversed(tensors):
        writer.write(name, tensors[name])
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    with pytest.raises(ValueError, match="announced"):
        writer.write("scalar", torch.zeros(2))
