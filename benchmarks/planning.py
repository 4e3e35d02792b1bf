"""What planning costs, in plain forwards of the same model, and how long commands take to their first line.

    python -m benchmarks.planning [--layers 24] [--experts 128] [--output reports/baselines]

A model of many experts with small widths (hidden 64, experts of 32) is planned by half: there Python counts and not
arithmetic. Each point runs in several processes of its own, on one thread; the least CPU seconds of each figure count,
since whatever else a machine does only adds to them. The *first* plan of a process also finds out what the
configuration's entries mean; a *later* one of the same sizes knows all. One of *another* ratio, by a pruner of its own,
tries a few entries more and records a forward of the new sizes. A plain forward has 16 tokens; beside it stands one in
which about all experts run (1024 tokens). Writes ``planning.json`` and ``planning.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moeverify.base.files import write_text
from moeverify.base.versions import versions

# Plain forwards that a plan may take.
TARGET = 10
# Processes of each point.
REPEAT = 5
IMPORTANCES = ("magnitude", "taylor", "random", "unknown")
COMMANDS = (
    ("--help",),
    ("inspect", "zoo:mixtral"),
    ("inspect", "zoo:deepseek_v3", "--full-size"),
)
_HELD = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def seconds_of(action: Callable[[], Any], repeat: int = 1) -> float:
    """CPU seconds of one call, the best of ``repeat``."""
    times = []
    for _ in range(repeat):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return min(times)


def build(layers: int, experts: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The model, its example inputs, and inputs that reach about all experts."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen3_moe",
        hidden_size=64,
        intermediate_size=128,
        moe_intermediate_size=32,
        num_hidden_layers=layers,
        num_experts=experts,
        num_experts_per_tok=min(8, experts // 2),
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=256,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    return model, {"input_ids": torch.arange(16).view(1, 16)}, {"input_ids": torch.randint(0, 256, (8, 128))}


def measure(importance: str, layers: int, experts: int) -> dict[str, Any]:
    """One model: seconds of forwards, of its scores at once, of tracing, and of a first, a later and another plan."""
    import torch
    import torch_pruning as tp

    import moeverify as mv
    from moeverify.pruning.choice.scores import score_classes

    class Unknown(tp.importance.GroupMagnitudeImportance):
        def __call__(self, group: Any) -> Any:
            return super().__call__(group)

    torch.set_num_threads(1)
    model, inputs, many = build(layers, experts)
    if importance == "taylor":
        model(**many).logits.square().mean().backward()
    kinds = {"taylor": tp.importance.TaylorImportance, "random": tp.importance.RandomImportance, "unknown": Unknown}
    chosen: Any = kinds.get(importance, tp.importance.GroupMagnitudeImportance)()
    stacks = [p.detach() for p in model.parameters() if p.dim() == 3]
    made: list[Any] = []

    def trace(ratio: float = 0.5) -> None:
        made.append(mv.MoEPruner(model, inputs, chosen, pruning_ratio=ratio, ignored_layers=[model.lm_head]))

    with torch.no_grad():
        forward = seconds_of(lambda: model(**inputs), 5)
        everyone = seconds_of(lambda: model(**many), 3)
        at_once = seconds_of(lambda: [stack.square().sum(-1) for stack in stacks], 3)
    traced = seconds_of(trace)
    first = seconds_of(made[0].plan)
    later = seconds_of(made[0].plan, 3)
    trace(0.25)
    other = seconds_of(made[1].plan)
    scores = seconds_of(lambda: score_classes(made[0].DG, made[0].DG.classes, chosen), 3)
    return {
        "importance": importance,
        "layers": layers,
        "experts": experts,
        "forward": forward,
        "everyone": everyone,
        "at_once": at_once,
        "trace": traced,
        "scores": scores,
        "first": first,
        "later": later,
        "other": other,
    }


def run_alone(command: list[str]) -> dict[str, Any]:
    """The figures that a process of its own measures."""
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **_HELD})
    return json.loads(done.stdout.strip().splitlines()[-1])


def least(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The least of each figure of several runs of one point."""
    return {name: min(run[name] for run in runs) for name in runs[0]}


def start_up(words: tuple[str, ...]) -> dict[str, Any]:
    """CPU seconds of a command, and of importing what it needs of PyTorch and transformers."""

    def spent(command: list[str]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, **_HELD})
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    libraries = "from transformers import MixtralForCausalLM" if len(words) > 1 else "import typer.rich_utils"
    seconds = min(spent([sys.executable, "-m", "moeverify", *words]) for _ in range(2))
    return {"command": " ".join(words), "seconds": seconds, "libraries": spent([sys.executable, "-c", libraries])}


def table(points: list[dict[str, Any]], starts: list[dict[str, Any]]) -> str:
    """Both tables as Markdown."""
    lines = [
        "# What planning costs",
        "",
        "In plain forwards (16 tokens) of the same model, on one thread; in brackets in forwards in which about all",
        "experts run (1024 tokens). `scores` are those of all classes, beside the squares of all stacks added up.",
        f"`unknown` is called expert by expert. Each is the least of {REPEAT} processes. The target is {TARGET}.",
        "Made by `python -m benchmarks.planning`.",
        "",
        "A first plan of an architecture also builds it without weights, with a few of its alike layers, under every",
        "change of its configuration that it tries, and records two forwards of those layers on the meta device.",
        "A later plan is one of the same pruner. Another one is made by a second pruner of the same model, for a",
        "ratio of 0.25 and not 0.5: it records one forward, of the new sizes, and builds what the new sizes need. A",
        "build or an operation without weights costs as much Python as one with weights, so none of them is free.",
        "",
        "| importance | layers x experts | forward (ms) | trace | scores | squares | first plan | later | another |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for p in points:
        unit = p["forward"]
        lines.append(
            f"| {p['importance']} | {p['layers']} x {p['experts']} | {1000 * unit:.0f} ({1000 * p['everyone']:.0f}) "
            f"| {p['trace'] / unit:.1f} | {p['scores'] / unit:.1f} | {p['at_once'] / unit:.1f} "
            f"| {p['first'] / unit:.1f} ({p['first'] / p['everyone']:.1f}) "
            f"| {p['later'] / unit:.1f} ({p['later'] / p['everyone']:.1f}) "
            f"| {p['other'] / unit:.1f} ({p['other'] / p['everyone']:.1f}) |"
        )
    known = [p for p in points if p["importance"] != "unknown"]
    for name, words in (("first", "a first plan"), ("later", "a later plan"), ("other", "a plan of another ratio")):
        most = max((p[name] / p["forward"] for p in known), default=0.0)
        reached = "reached" if most <= TARGET else "missed"
        lines += ["", f"The target is {reached} by {words} with known importances: at most {most:.1f} forwards."]
    lines += [
        "",
        "CPU seconds of commands from start to end, and of importing the libraries alone that they need. `--full-size`",
        "traces all 61 layers without weights. That forward has eleven thousand operations on fake tensors, which take",
        "most of the seconds beyond the libraries.",
        "",
        "| command | seconds | libraries |",
        "|---|---:|---:|",
    ]
    lines += [f"| `moeverify {s['command']}` | {s['seconds']:.2f} | {s['libraries']:.2f} |" for s in starts]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--output", type=Path, default=Path("reports/baselines"), help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="one importance, no commands, nothing written")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.point:
        print(json.dumps(measure(options.point, options.layers, options.experts)))
        return
    points = []
    for importance in IMPORTANCES[:1] if options.quick else IMPORTANCES:
        command = [sys.executable, "-m", "benchmarks.planning", "--point", importance]
        command += ["--layers", str(options.layers), "--experts", str(options.experts)]
        points.append(least([run_alone(command) for _ in range(1 if options.quick else REPEAT)]))
    starts = [] if options.quick else [start_up(words) for words in COMMANDS]
    print(table(points, starts))
    if not options.quick:
        data = {"versions": versions(), "points": points, "commands": starts}
        write_text(options.output / "planning.json", json.dumps(data, indent=1) + "\n")
        write_text(options.output / "planning.md", table(points, starts))


if __name__ == "__main__":
    main()
