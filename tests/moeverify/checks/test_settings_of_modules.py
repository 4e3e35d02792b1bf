"""``unrelated-unchanged`` on models without configuration: settings that no output in evaluation shows."""

import dataclasses

import pytest
import torch
from judged import verdicts
from torch import nn
from torch.nn import functional as F

from moeverify.verdict import Status

CHECK = "unrelated-unchanged"
X = torch.randn(2, 6, 12, generator=torch.Generator().manual_seed(0))


@dataclasses.dataclass
class Settings:
    dropout: float = 0.1
    window: int = 4096
    coefficients: tuple = (0.01, 0.001)
    windows: tuple = (4096, 8)
    losses: dict = dataclasses.field(default_factory=lambda: {"z": 0.001})


class Expert(nn.Module):
    def __init__(self, number):
        super().__init__()
        self.number, self.drop_rate = number, number / 10
        self.up, self.down = nn.Linear(12, 16), nn.Linear(16, 12)

    def forward(self, x):
        return self.down(F.gelu(self.up(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.settings = Settings()
        self.norm, self.dropout = nn.BatchNorm1d(12), nn.Dropout(0.1)
        self.gate, self.experts = nn.Linear(12, 4), nn.ModuleList([Expert(n) for n in range(4)])
        self.limit, self.rate = 4096, 0.9
        self.inner = [expert.up.out_features for expert in self.experts]
        self.in_all, self.forms = (
            sum(self.inner),
            {"up": self.experts[0].up.weight.shape, "half": (self.inner[0] // 2,)},
        )
        self.entropy, self.load, self.seen = 0.0, None, {}

    def forward(self, x):
        gates = self.gate(self.norm(x.transpose(1, 2)).transpose(1, 2)).softmax(-1)
        self.entropy, self.load = float(gates.sum()), float(gates[..., 0].mean())
        self.seen["tokens"] = float(gates.max())
        near = torch.arange(x.shape[1]) < min(self.limit, self.settings.window, *self.settings.windows)
        out = sum(gates[..., n, None] * expert(x) for n, expert in enumerate(self.experts)) * near[:, None]
        return x + F.dropout(self.dropout(out), self.settings.dropout, self.training)


def cut(model):
    """Keep eight channels of each expert, rightly."""
    for expert in model.experts:
        kept = expert.up.weight.norm(dim=1).topk(8).indices.sort().values
        expert.up.weight = nn.Parameter(expert.up.weight.detach()[kept])
        expert.up.bias = nn.Parameter(expert.up.bias.detach()[kept])
        expert.down.weight = nn.Parameter(expert.down.weight.detach()[:, kept])
        expert.up.out_features = expert.down.in_features = 8


def judged(spoil):
    def prune(model, example_inputs, *, pruning_ratio, seed):
        cut(model)
        model(example_inputs * 2)
        spoil(model)

    torch.manual_seed(0)
    return verdicts(Net(), X, prune, checks=[CHECK])[CHECK]


def test_what_a_forward_leaves_behind_is_no_setting():
    found = judged(lambda model: None)
    assert found.status is Status.PASS, found.message


def test_settings_of_experts_go_with_them():
    def remove(model):
        model.experts = nn.ModuleList([model.experts[1], model.experts[3]])
        model.gate.weight = nn.Parameter(model.gate.weight.detach()[[1, 3]])
        model.gate.bias = nn.Parameter(model.gate.bias.detach()[[1, 3]])
        model.gate.out_features = 2

    found = judged(remove)
    assert found.status is Status.PASS, found.message


def replaced(path, value):
    """Set an attribute, or an entry of a mapping, along a path."""

    def spoil(model):
        *way, last = path.split(".")
        holder = model
        for step in way:
            holder = holder[step] if isinstance(holder, dict) else getattr(holder, step)
        if isinstance(holder, dict):
            holder[last] = value
        else:
            setattr(holder, last, value)

    return spoil


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("rate", 1, "rate is 1, the base's 0.9"),
        ("dropout.p", 0, "dropout.p is 0, the base's 0.1"),
        ("norm.momentum", None, "norm.momentum is None, the base's 0.1"),
        ("norm.affine", 0, "norm.affine is 0, the base's True"),
        ("settings.dropout", 0.5, "settings.dropout is 0.5, the base's 0.1"),
        ("settings.coefficients", (0.5, 0.001), "settings.coefficients[0] is 0.5, the base's 0.01"),
        ("settings.losses.z", 0.1, "settings.losses.z is 0.1, the base's 0.001"),
        ("dropout", nn.Identity(), "dropout is of the class Identity, the base's of Dropout"),
    ],
)
def test_a_setting_that_only_training_reads(path, value, named):
    found = judged(replaced(path, value))
    assert found.status is Status.FAIL, found.message
    assert found.message.startswith(named)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("limit", 2048, "limit"),
        ("settings.window", 2048, "settings.window"),
        ("settings.windows", (2048, 8), "settings.windows[0]"),
    ],
)
def test_a_whole_number_that_no_input_shows_is_not_approved(path, value, named):
    found = judged(replaced(path, value))
    assert found.status is Status.INCONCLUSIVE, found.message
    assert found.message.startswith(f"{named} is 2048, the base's 4096")


def test_a_whole_number_that_outputs_show_is_left_to_the_outputs():
    found = judged(replaced("limit", 3))
    assert found.status is Status.PASS, found.message


def test_whole_numbers_that_follow_a_size_are_explained_wherever_they_are_kept():
    def in_step(model):
        model.inner, model.in_all = [8] * 4, 32
        model.forms = {"up": model.experts[0].up.weight.shape, "half": (4,)}

    found = judged(in_step)
    assert found.status is Status.PASS, found.message
