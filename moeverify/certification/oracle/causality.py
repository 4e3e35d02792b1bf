"""Whether a token changes what was computed before it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from moeverify.certification.oracle.running import vocabulary
from moeverify.checks.evidence.causality import movement, rows_by_token
from moeverify.models.device import input_device
from moeverify.models.exercise import run_all
from moeverify.models.numerics import float64_throughout

# (batch, tokens): views of grouped routers divide for some and not for others.
SHAPES = ((1, 8), (2, 12), (1, 24), (3, 16))
TOLERANCE = 1e-9


def leaks(model: nn.Module, seed: int = 0, stream: AbstractContextManager[object] | None = None) -> dict[str, float]:
    """By how much changing the last token changes earlier rows of each output, relative to it.

    Outputs without a row for each token are left out. ``stream`` is active while the model runs.
    """
    generator = torch.Generator().manual_seed(seed)
    worst: dict[str, float] = {}
    device = input_device(model)
    with float64_throughout(), torch.no_grad(), stream or nullcontext():
        for shape in SHAPES:
            tokens = torch.randint(0, vocabulary(model), shape, generator=generator).to(device)
            other = tokens.clone()
            other[:, -1] = (other[:, -1] + 1) % vocabulary(model)
            first, second = (rows_by_token(run_all(model, {"input_ids": ids}), tokens) for ids in (tokens, other))
            for name in (name for name in first if name in second):
                moved = float(movement(first[name], second[name])[:, :-1].max())
                worst[name] = max(worst.get(name, 0.0), moved)
    return worst
