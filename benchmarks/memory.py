"""How much memory pruning takes beyond the model itself, against the largest layer.

``python -m benchmarks.memory`` prunes models of growing depth, each in a process of its own, and watches resident
memory (Linux) while the plan is made and while it is carried out. What is taken on top of the model should be no more
than its largest layer however deep the model is, for layers are scored and sliced one after the other. The C library is
told to give memory back at once (``MALLOC_MMAP_THRESHOLD_``), so that tensors count and not what it keeps of them for
later, which differs from run to run. It writes
``reports/baselines/memory.json`` and the table ``memory.md`` beside it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from moeverify.base.files import write_text

DEPTHS = (2, 4, 8)
# Extra memory at the peak, in largest layers.
MOST_LAYERS = 1.1
_GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
_INTERVAL = 0.002


class Peak:
    """Highest resident memory seen, in bytes above the start."""

    def __init__(self) -> None:
        self.start = psutil.Process().memory_info().rss
        self.bytes = 0


@contextmanager
def watch() -> Iterator[Peak]:
    """Sample resident memory in a thread while the block runs."""
    gc.collect()
    process, peak, done = psutil.Process(), Peak(), threading.Event()

    def sample() -> None:
        while not done.wait(_INTERVAL):
            peak.bytes = max(peak.bytes, process.memory_info().rss - peak.start)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def measure(depth: int, hidden: int, dtype: str) -> dict[str, Any]:
    """One model of ``depth`` layers with eight fused experts, pruned by half."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    import moeverify as mv
    from moeverify.pruning.step.carry_out import carry_out
    from moeverify.pruning.step.prepare import prepare

    config = AutoConfig.for_model(
        "mixtral",
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=depth,
        num_local_experts=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=1024,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
    layers = model.model.layers
    largest = max(sum(p.numel() * p.element_size() for p in layer.parameters()) for layer in layers)
    total = sum(p.numel() * p.element_size() for p in model.parameters())
    inputs = {"input_ids": torch.arange(16).view(1, 16)}
    with torch.no_grad():
        model(**inputs)  # kernels and their workspaces are not pruning's
    with watch() as planning:
        pruner = mv.MoEPruner(model, inputs, pruning_ratio=0.5, ignored_layers=[model.lm_head], round_to=8)
        plan = prepare(pruner._selection, 1, pruner.round_to, pruner.example).plan
    with watch() as carrying:
        carry_out(model, plan)
    return {
        "layers": depth,
        "dtype": dtype,
        "model_mib": total / 2**20,
        "largest_layer_mib": largest / 2**20,
        "plan": planning.bytes / largest,
        "carry_out": carrying.bytes / largest,
        "left": sum(p.numel() * p.element_size() for p in model.parameters()) / total,
    }


def table(points: list[dict[str, Any]]) -> str:
    """The points as a Markdown table."""
    lines = [
        "# Memory that pruning takes beyond the model",
        "",
        "Resident memory at the peak above what the model takes, in sizes of its largest layer, where the C library",
        "gives freed memory back at once. Made by `python -m benchmarks.memory`.",
        "",
        "| layers | dtype | model (MiB) | largest layer (MiB) | making the plan | carrying it out | left |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {p['layers']} | {p['dtype']} | {p['model_mib']:.0f} | {p['largest_layer_mib']:.0f} "
        f"| {p['plan']:.2f} | {p['carry_out']:.2f} | {p['left']:.0%} |"
        for p in points
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Measure, write and print; 1 if a peak exceeds ``MOST_LAYERS``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--hidden", type=int, default=1024, help="hidden size (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("reports/baselines"), help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="the smallest depth alone, nothing written")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.point:
        depth, dtype = options.point.split(",")
        print(json.dumps(measure(int(depth), options.hidden, dtype)))
        return 0
    points = []
    for dtype in ("bfloat16",) if options.quick else ("bfloat16", "float32"):
        for depth in DEPTHS[:1] if options.quick else DEPTHS:
            command = [sys.executable, "-m", "benchmarks.memory", "--point", f"{depth},{dtype}"]
            command += ["--hidden", str(options.hidden)]
            environment = {**os.environ, **_GIVE_BACK}
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            points.append(json.loads(done.stdout.strip().splitlines()[-1]))
    print(table(points))
    if not options.quick:
        write_text(options.output / "memory.json", json.dumps(points, indent=1) + "\n")
        write_text(options.output / "memory.md", table(points))
    return int(any(max(p["plan"], p["carry_out"]) > MOST_LAYERS for p in points))


if __name__ == "__main__":
    sys.exit(main())
