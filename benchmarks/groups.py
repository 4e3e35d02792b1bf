"""Group building over the number of listed experts in one layer: time and memory.

    python -m benchmarks.groups [--experts 64 128 256 512] [--repeat 3] [--output reports/baselines]

Prints, and writes as ``groups.md`` and ``groups.json``, for each number of experts, the time of ``build_dependency``
and of all groups as a multiple of one plain forward in which every expert runs, the peak of the Python memory that both
take per expert, and the exponents that fit the growth: 1 is linear. CPU seconds of this process, the best of
``--repeat`` runs.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import moeverify as mv
from moeverify.base.files import write_text
from moeverify.base.versions import versions


class Expert(nn.Module):
    """A gated MLP."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(hidden, inner, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(torch.sigmoid(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One MoE layer of ``count`` listed experts between two linear layers; ``everyone`` runs all of them."""

    def __init__(self, count: int, hidden: int = 16, inner: int = 8) -> None:
        super().__init__()
        self.embed, self.gate, self.head = nn.Linear(4, hidden), nn.Linear(hidden, count), nn.Linear(hidden, 4)
        self.experts = nn.ModuleList([Expert(hidden, inner) for _ in range(count)])
        self.everyone = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        weights, chosen = self.gate(x).softmax(-1).topk(2)
        out = x
        for number, expert in enumerate(self.experts):
            rows, slot = (chosen == number).nonzero(as_tuple=True)
            if self.everyone:
                rows = slot = chosen.new_zeros(1)
            if len(rows):
                out = out.index_add(0, rows, expert(x[rows]) * weights[rows, slot, None])
        return self.head(out)


def best(repeat: int, action: Callable[[], object]) -> float:
    """The least CPU time of ``repeat`` calls, in seconds."""
    times = []
    for _ in range(repeat):
        gc.collect()
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return min(times)


def exponent(counts: list[int], values: list[float]) -> float:
    """The slope of a line through the logarithms: how a value grows with a count."""
    x = [math.log(count) for count in counts]
    y = [math.log(value) for value in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def build(count: int) -> tuple[Layer, torch.Tensor]:
    """One layer of ``count`` experts, and its input."""
    torch.manual_seed(0)
    return Layer(count).eval(), torch.randn(16, 4)


def measure(count: int, repeat: int) -> dict[str, float]:
    """Times and memory for one layer of ``count`` experts."""
    model, x = build(count)

    def forward() -> None:
        with torch.no_grad():
            model.everyone = True
            model(x)
            model.everyone = False

    graph = mv.MoEDependencyGraph().build_dependency(model, x)
    groups = list(graph.get_all_groups())
    seconds = {
        "forward": best(repeat, forward),
        "build": best(repeat, lambda: mv.MoEDependencyGraph().build_dependency(model, x)),
        "groups": best(repeat, lambda: list(graph.get_all_groups())),
    }
    gc.collect()
    tracemalloc.start()
    list(mv.MoEDependencyGraph().build_dependency(model, x).get_all_groups())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {**seconds, "found": len(groups), "expansions": graph.expansions, "bytes": peak}


def table(rows: list[dict[str, float]]) -> str:
    """The rows as a Markdown table, and how their values grow."""
    lines = [
        "# Group building over the number of listed experts in one layer",
        "",
        "Times as multiples of one plain forward in which every expert runs, on one core; by "
        "`python -m benchmarks.groups`.",
        "",
        "| experts | groups | build / forward | all groups / forward | seconds (build, groups) | KiB per expert |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['experts']} | {row['found']:.0f} | {row['build'] / row['forward']:.1f} | "
        f"{row['groups'] / row['forward']:.1f} | {row['build']:.2f}, {row['groups']:.2f} | "
        f"{row['bytes'] / row['experts'] / 1024:.1f} |"
        for row in rows
    ]
    if len(rows) > 1:
        counts = [int(row["experts"]) for row in rows]
        growth = ", ".join(
            f"{name} {exponent(counts, [row[name] for row in rows]):.2f}"
            for name in ("forward", "build", "groups", "bytes")
        )
        lines += ["", f"Growth as a power of the number of experts (1 is linear): {growth}."]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("reports/baselines"), help="folder of the results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    measure(4, 1)  # imports and caches
    rows = [{"experts": count, **measure(count, options.repeat)} for count in options.experts]
    print(table(rows))
    write_text(options.output / "groups.json", json.dumps({"versions": versions(), "rows": rows}, indent=1) + "\n")
    write_text(options.output / "groups.md", table(rows))


if __name__ == "__main__":
    main()
