"""What one calibration pass costs, in plain forwards of the same data, for fused and for listed experts.

``python -m benchmarks.calibration`` prints the smallest of several timings of each, in seconds of processor time, taken
in turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from moeverify.models.forward import Example
from moeverify.models.roles import find_roles
from moeverify.pruning.experts.observe import observe
from moeverify.pruning.experts.removal import expert_layout

TURNS = 5


class Expert(nn.Module):
    """A gated MLP."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(hidden, inner), nn.Linear(hidden, inner), nn.Linear(inner, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[rows, hidden]`` to the same."""
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


class Listed(nn.Module):
    """A block of listed experts, two for each token."""

    def __init__(self, hidden: int = 256, inner: int = 512, experts: int = 8) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden, experts, bias=False)
        self.experts = nn.ModuleList(Expert(hidden, inner) for _ in range(experts))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[tokens, hidden]`` to the same."""
        weights, chosen = self.gate(x).softmax(-1).topk(2, dim=-1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, slot = (chosen == number).nonzero(as_tuple=True)
            out = out.index_add(0, rows, expert(x[rows]) * weights[rows, slot, None])
        return x + out


def fused() -> tuple[nn.Module, Any]:
    """A small Mixtral."""
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "vocab_size": 512}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 8}
    return MixtralForCausalLM(MixtralConfig(**sizes, **heads)).eval(), {"input_ids": torch.randint(0, 512, (4, 512))}


def listed() -> tuple[nn.Module, Any]:
    """Three blocks of listed experts."""
    return nn.Sequential(*(Listed() for _ in range(3))).eval(), torch.randn(2048, 256)


def cost(make: Callable[[], tuple[nn.Module, Any]]) -> tuple[float, float]:
    """Seconds of a plain forward and of a calibration pass over the same batch."""
    torch.manual_seed(0)
    model, inputs = make()
    example = Example(inputs)
    layers = expert_layout(model, find_roles(model), example).layers
    plain, observed = [], []
    for _ in range(TURNS):
        begin = time.process_time()
        with torch.no_grad():
            example(model)
        plain.append(time.process_time() - begin)
        begin = time.process_time()
        observe(model, layers, [inputs], example)
        observed.append(time.process_time() - begin)
    return min(plain), min(observed)


def main() -> None:
    """Print both."""
    for make in (fused, listed):
        plain, observed = cost(make)
        print(f"{make.__name__}: {observed / plain:.2f} plain forwards ({plain * 1e3:.0f} ms, {observed * 1e3:.0f} ms)")


if __name__ == "__main__":
    main()
