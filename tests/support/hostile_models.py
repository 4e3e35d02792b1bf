"""Sources that leave in every way that Python knows: as a factory (``factory_WAY``), in a forward (``forward_WAY``),
when they are copied (``copied_WAY``). Named as ``hostile_models:NAME``.
"""

import os
import sys

import torch
from torch import nn


class Wordless(Exception):
    def __str__(self):
        raise RuntimeError("not even a description")


def _raise(error):
    raise error


WAYS = {
    "end_of_input": lambda: _raise(EOFError()),
    "exit": lambda: sys.exit(0),
    "os_exit": lambda: os._exit(0),
    "interrupt": lambda: _raise(KeyboardInterrupt()),
    "generator": lambda: _raise(GeneratorExit()),
    "silent": lambda: _raise(ValueError()),
    "wordless": lambda: _raise(Wordless()),
    "markup": lambda: _raise(ValueError("[red]\x1b[2J\n</testcase>")),
}


class _Net(nn.Module):
    def __init__(self, way, copied=False):
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.way, self.copied = way, copied

    def forward(self, x):
        if not self.copied:
            WAYS[self.way]()
        return self.down(self.up(x).relu())

    def __deepcopy__(self, memo):
        if self.copied:
            WAYS[self.way]()
        return _Net(self.way)


def _factory(way):
    return lambda: WAYS[way]()


def _forward(way):
    return lambda: (_Net(way), torch.ones(2, 8))


def _copied(way):
    return lambda: (_Net(way, copied=True), torch.ones(2, 8))


for _way in WAYS:
    globals()[f"factory_{_way}"] = _factory(_way)
    globals()[f"forward_{_way}"] = _forward(_way)
    globals()[f"copied_{_way}"] = _copied(_way)
