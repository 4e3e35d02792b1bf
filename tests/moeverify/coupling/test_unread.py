"""Rows of a table that the example is too short to read stay, since longer inputs read them."""

import pytest
import torch
from judged import problems, verdicts
from torch import nn

import moeverify as mv

IDS = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(0))
ROWS = 64


class Positions(nn.Module):
    """A learned table of positions, cut to the length of the input in one of several ways."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.words, self.up, self.down, self.head = (
            nn.Embedding(50, 16), nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 50)
        )  # fmt: skip
        self.table = nn.Parameter(torch.randn(1, ROWS, 16))
        if how == "two tables":
            self.other = nn.Parameter(torch.randn(1, ROWS, 16))

    def rows(self, length):
        if self.how == "cast":
            return self.table.to(self.words.weight.dtype).expand(2, -1, -1)[:, :length]
        if self.how == "two tables":
            return (self.table + self.other)[:, :length]
        if self.how == "last":
            return self.table[:, ROWS - length :]
        return self.table[:, :length]

    def forward(self, ids):
        x = self.words(ids) + self.rows(ids.shape[1])
        return self.head(x + self.down(self.up(x).relu()))


@pytest.mark.parametrize("how", ["sliced", "cast", "two tables", "last"])
def test_rows_that_longer_inputs_read_stay(how):
    torch.manual_seed(0)
    model = Positions(how).eval()
    found = mv.trace_couplings(model, IDS)
    assert not any(m.parameter in ("table", "other") and m.dim == 1 for c in found.classes for m in c.members)
    longer = [f for f in found.frozen if (f.parameter, f.dim) == ("table", 1) and "longer inputs" in f.reason]
    assert sum(len(f.positions) for f in longer) == ROWS - 12
    assert all("test_unread.py:" in f.line for f in longer)
    found = verdicts(model, (IDS,), checks=("masked-equivalence", "coupling-complete", "coupling-minimal", "shapes"))
    assert problems(found) == {}
    assert tuple(model.table.shape) == (1, ROWS, 8)
    assert model(torch.cat([IDS, IDS], 1)).shape == (2, 24, 50)


class Parts(nn.Module):
    """Channels of which a slice is looked at as well: all are read."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 12), nn.Linear(12, 4)

    def forward(self, x):
        y = self.up(x).relu()
        return self.down(y), y[:, :4].sum(0).detach() * 0 + torch.ones(4)


def test_channels_that_a_slice_leaves_out_are_read_by_others():
    torch.manual_seed(0)
    found = mv.trace_couplings(Parts(), torch.randn(3, 6))
    assert not any("longer inputs" in f.reason for f in found.frozen)
    (left,) = [c for c in found.classes if any(m.parameter == "up.weight" and m.dim == 0 for m in c.members)]
    assert left.size == 8
