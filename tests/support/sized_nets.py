"""Modules whose forward reads sizes from attributes, and their pruning."""

import copy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

import moeverify as mv

X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
EXACT = 1e-12


@dataclass
class Settings:
    width: int = 24
    heads: int = 4
    inner: int = 40


@dataclass(frozen=True)
class FrozenSettings:
    width: int = 24
    heads: int = 4
    inner: int = 40


class NamedSettings(NamedTuple):
    width: int = 24
    heads: int = 4
    inner: int = 40


class Namespace:
    width, heads, inner = 24, 4, 40
    name = "a class that nobody makes an object of"


KINDS = {
    "class": lambda: Namespace,
    "dataclass": Settings,
    "frozen dataclass": FrozenSettings,
    "namespace": lambda: SimpleNamespace(width=24, heads=4, inner=40),
    "named tuple": NamedSettings,
    "object": lambda: type("Plain", (), {"width": 24, "heads": 4, "inner": 40})(),
}


class Attention(nn.Module):
    """One projection split by the width, heads counted by the settings."""

    def __init__(self, settings):
        super().__init__()
        self.settings = settings
        self.qkv, self.out = nn.Linear(24, 72), nn.Linear(24, 24)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).split(self.settings.width, dim=-1)
        shape = (b, n, self.settings.heads, self.settings.width // self.settings.heads)
        q, k, v = (t.view(shape).transpose(1, 2) for t in (q, k, v))
        weights = (q @ k.transpose(-1, -2) * 0.4).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(b, n, self.settings.width))


class Reads(nn.Module):
    """A transformer block whose sizes are read from a settings object in every forward."""

    def __init__(self, kind="dataclass"):
        super().__init__()
        settings = KINDS[kind]()
        self.settings = settings
        self.embed, self.head = nn.Linear(6, 24), nn.Linear(24, 3)
        self.attention = Attention(settings)
        self.up, self.down = nn.Linear(24, 40), nn.Linear(40, 24)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.attention(F.layer_norm(x, (self.settings.width,)))
        assert self.up(x).shape[-1] == self.settings.inner
        return self.head(x + self.down(self.up(x).relu()))


def prune(model, x=X, **arguments):
    """The plan that was carried out, and an unpruned copy."""
    original = copy.deepcopy(model)
    plan = mv.MoEPruner(model, x, **{"pruning_ratio": 0.5, **arguments}).step()
    return original, plan
