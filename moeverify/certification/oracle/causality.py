"""Whether a token changes what was computed before it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from moeverify.certification.oracle.running import vocabulary
from moeverify.models.device import input_device
from moeverify.models.exercise import run
from moeverify.models.numerics import float64_throughout

# (batch, tokens): views of grouped routers divide for some and not for others.
SHAPES = ((1, 8), (2, 12), (1, 24), (3, 16))
TOLERANCE = 1e-9


def leak(model: nn.Module, seed: int = 0, stream: AbstractContextManager[object] | None = None) -> float:
    """By how much changing the last token changes earlier logits, relative to them.

    ``stream`` is active while the model runs.
    """
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    device = input_device(model)
    with float64_throughout(), torch.no_grad(), stream or nullcontext():
        for shape in SHAPES:
            tokens = torch.randint(0, vocabulary(model), shape, generator=generator).to(device)
            other = tokens.clone()
            other[:, -1] = (other[:, -1] + 1) % vocabulary(model)
            first, second = (run(model, {"input_ids": ids})[:, :-1] for ids in (tokens, other))
            worst = max(worst, float((first - second).abs().max() / first.abs().max().clamp_min(1e-30)))
    return worst
