"""What one calibration pass costs: time in plain forwards of the same data, and memory by number of tokens.

``python -m benchmarks.calibration`` measures fused and listed experts, few and many, and writes
``reports/baselines/calibration.json`` and ``calibration.md``. Times are the smallest of several timings of each, in
seconds of processor time, taken in turn on one thread. Memory is that of all tensors that are alive after a forward and
were not before the pass.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moeverify.base.files import write_text
from moeverify.base.versions import versions
from moeverify.models.forward import Example
from moeverify.models.roles import find_roles
from moeverify.pruning.experts.observe import observe
from moeverify.pruning.experts.removal import expert_layout

TURNS = 5
TARGET = 1.3
BATCHES = (1, 8)
Built = tuple[nn.Module, Any]


class Expert(nn.Module):
    """A gated MLP."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(hidden, inner), nn.Linear(hidden, inner), nn.Linear(inner, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[rows, hidden]`` to the same."""
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


class Listed(nn.Module):
    """A block of listed experts, two for each token, added up in place as Mixtral's code did."""

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
            out.index_add_(0, rows, expert(x[rows]) * weights[rows, slot, None])
        return x + out


def fused() -> Built:
    """A small Mixtral: 8 experts, two for each token."""
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "vocab_size": 512}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 8}
    return MixtralForCausalLM(MixtralConfig(**sizes, **heads)).eval(), {"input_ids": torch.randint(0, 512, (4, 512))}


def fused_many() -> Built:
    """A small Qwen3-MoE: 64 experts, eight for each token."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    sizes = {"hidden_size": 256, "moe_intermediate_size": 192, "num_hidden_layers": 2, "vocab_size": 512}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 64, "num_experts_per_tok": 8}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, **heads)).eval(), {"input_ids": torch.randint(0, 512, (4, 512))}


def listed() -> Built:
    """Three blocks of 8 listed experts, two for each token."""
    return nn.Sequential(*(Listed() for _ in range(3))).eval(), torch.randn(2048, 256)


def listed_many() -> Built:
    """A block of 32 listed experts, two for each token, of twice the width."""
    return nn.Sequential(Listed(512, 1024, experts=32)).eval(), torch.randn(2048, 512)


CASES: dict[str, Callable[[], Built]] = {
    "fused, 2 of 8, width 256": fused,
    "fused, 8 of 64, width 256": fused_many,
    "listed, 2 of 8, width 256": listed,
    "listed, 2 of 32, width 512": listed_many,
}


def cost(make: Callable[[], Built]) -> tuple[float, float]:
    """Seconds of a plain forward and of a calibration pass over the same batch."""
    model, inputs, example, layers = _prepared(make)
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


def held(make: Callable[[], Built], batches: int) -> int:
    """Bytes of tensors that one pass keeps from forward to forward: the most after any of them."""
    model, inputs, example, layers = _prepared(make)
    before = set(_alive())
    most = 0

    def run(calls: Sequence[Callable[[], Any]]) -> None:
        nonlocal most
        for call in calls:
            call()
            most = max(most, sum(size for key, size in _alive().items() if key not in before))

    statistics = observe(model, layers, [inputs] * batches, example, run)
    assert sum(float(one.tokens.sum()) for one in statistics.values()) > 0
    return most


def _prepared(make: Callable[[], Built]) -> tuple[nn.Module, Any, Example, Any]:
    torch.manual_seed(0)
    model, inputs = make()
    example = Example(inputs)
    return model, inputs, example, expert_layout(model, find_roles(model), example).layers


def _alive() -> dict[int, int]:
    """Bytes of every storage that a tensor holds now, by its address."""
    gc.collect()
    tensors = [x for x in gc.get_objects() if type(x) in (torch.Tensor, nn.Parameter) and x.device.type == "cpu"]
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if not t.is_sparse}


def measure(make: Callable[[], Built]) -> dict[str, Any]:
    """Seconds of both, and bytes by number of batches."""
    plain, observed = cost(make)
    return {"plain": plain, "observed": observed, "held": {str(n): held(make, n) for n in BATCHES}}


def table(points: dict[str, dict[str, Any]]) -> str:
    """The page."""
    lines = [
        "# What calibration costs",
        "",
        "One pass that gathers the statistics of all criteria and layers, in plain forwards of the same batch (least",
        f"of {TURNS} timings in processor time, one thread). Memory is what the pass keeps from forward to forward,",
        "after so many batches of 2048 tokens. Made by `python -m benchmarks.calibration`.",
        "",
        "| experts | plain (ms) | calibration (ms) | plain forwards | "
        + " | ".join(f"bytes kept, {n} batches" for n in BATCHES)
        + " |",
        "|---|---:|---:|---:|" + "---:|" * len(BATCHES),
    ]
    for name, p in points.items():
        sizes = " | ".join(str(p["held"][str(n)]) for n in BATCHES)
        plain, observed = p["plain"], p["observed"]
        lines.append(f"| {name} | {plain * 1e3:.0f} | {observed * 1e3:.0f} | {observed / plain:.2f} | {sizes} |")
    most = max(p["observed"] / p["plain"] for p in points.values())
    alike = all(len(set(p["held"].values())) == 1 for p in points.values())
    lines += [
        "",
        f"The target of {TARGET} plain forwards is {'reached' if most <= TARGET else 'missed'}: at most {most:.2f}.",
        "",
        f"Memory {'does not depend' if alike else 'depends'} on the number of tokens.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("reports/baselines"), help="folder of the results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    points = {name: measure(make) for name, make in CASES.items()}
    print(table(points))
    write_text(
        options.output / "calibration.json", json.dumps({"versions": versions(), "points": points}, indent=1) + "\n"
    )
    write_text(options.output / "calibration.md", table(points))


if __name__ == "__main__":
    main()
