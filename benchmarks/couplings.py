"""What tracing and solving cost, measured against one plain forward of the same model run beside it.

``python -m benchmarks.couplings`` grows synthetic MoE models in experts (8 to 512) and in layers (2 to 64) at a real
hidden size, fits the exponent of the growth, lets stock Torch-Pruning's ``DependencyGraph`` try the smallest ones
under a time limit, and inspects two models at their full size without weights. It writes
``reports/baselines/couplings-speed.json`` and the tables ``couplings-speed.md`` beside it.

Every point is measured in a process of its own on one thread. Times are processor seconds, the least of several
runs, so that other work on the machine does not count; memory is the peak of resident memory (Linux).
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

EXPERTS = (8, 32, 128, 512)
LAYERS = (2, 8, 32, 64)
FULL_SIZE = ("zoo:deepseek_v3", "zoo:qwen3_next")
MOST_FORWARDS, MOST_EXPONENT = 5.0, 1.1
MOST_SECONDS, MOST_GIB = 15.0, 1.0
STOCK = ("synthetic:listed", "zoo:mixtral", "zoo:qwen2_moe", "zoo:deepseek_v3", "zoo:gpt_oss")
STOCK_LIMIT = 60


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything, write the results and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=1024, help="hidden size (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("reports/baselines"), help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="the smallest points alone, nothing written")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.point:
        print(json.dumps(_POINTS[(point := json.loads(options.point))["kind"]](point)))
        return
    results = measure(options.hidden, quick=options.quick)
    text = tables(results)
    print(text)
    if not options.quick:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "couplings-speed.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
        (options.output / "couplings-speed.md").write_text(text, "utf-8")


def measure(hidden: int, *, quick: bool = False) -> dict[str, Any]:
    """All points, each in its own process, with the fitted exponents."""
    from moeverify.base.versions import versions

    results: dict[str, Any] = {
        "format": "moeverify-couplings-speed/1",
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
        "threads": 1,
        "hidden": hidden,
        "series": [],
        "stock": [],
        "full_size": [],
    }
    for storage in ("listed", "fused"):
        for axis, values in (
            ("experts", EXPERTS[:2] if quick else EXPERTS),
            ("layers", LAYERS[:2] if quick else LAYERS),
        ):
            points = []
            for value in values:
                size = {"experts": 8, "layers": 2, axis: value}
                points.append(_child({"kind": "ours", "storage": storage, "hidden": hidden, **size}, 900))
                print(storage, axis, value, points[-1], file=sys.stderr, flush=True)
            results["series"].append(
                {
                    "storage": storage,
                    "axis": axis,
                    "points": points,
                    "exponent": {
                        k: round(exponent(points, axis, k), 2) for k in ("forward", "trace", "solve", "total")
                    },
                }
            )
    for source in STOCK[:1] if quick else STOCK:
        stock = _child({"kind": "stock", "source": source}, STOCK_LIMIT)
        ours = _child({"kind": "beside_stock", "source": source}, 10 * STOCK_LIMIT)
        results["stock"].append({"source": source, "stock": stock["outcome"], "ours": ours["outcome"]})
    for source in () if quick else FULL_SIZE:
        results["full_size"].append(_child({"kind": "full_size", "source": source}, 600))
    return results


def _child(point: dict[str, Any], limit: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.couplings", "--point", json.dumps(point)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"outcome": f"not done after {limit:.0f} s"}
    if done.returncode:
        return {"outcome": f"failed: {done.stderr.strip().splitlines()[-1][:200]}"}
    return json.loads(done.stdout.splitlines()[-1])


def exponent(points: Sequence[dict[str, Any]], axis: str, key: str) -> float:
    """Slope of the least-squares line through the logarithms of size and time."""
    pairs = [(math.log(p[axis]), math.log(max(p[key], 1e-6))) for p in points if key in p]
    if len(pairs) < 2:
        return math.nan
    middle = [sum(column) / len(pairs) for column in zip(*pairs, strict=True)]
    over = sum((x - middle[0]) * (y - middle[1]) for x, y in pairs)
    return over / sum((x - middle[0]) ** 2 for x, _ in pairs)


def _build(point: dict[str, Any]):
    import torch

    import synthetic_models

    torch.set_num_threads(1)
    hidden = point["hidden"]
    spec = synthetic_models.Spec(
        layers=("moe",) * point["layers"],
        hidden=hidden,
        widths=(hidden // 8,) * point["experts"],
        top_k=2,
        batch=2,
        length=32,
        vocab=1024,
        attention="grouped_query",
        head_dim=64,
        kv_heads=max(hidden // 256, 1),
        group=4,
        activation="swiglu",
        storage=point["storage"],
        shared="one",
        shared_width=hidden // 8,
    )
    return synthetic_models.build(spec).eval(), synthetic_models.example_inputs(spec)


def _least(work: Callable[[], Any], times: int = 3) -> tuple[float, int]:
    """Fewest processor seconds of several runs, and the peak of resident memory in bytes over them."""
    _reset_peak()
    seconds = []
    for _ in range(times):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
        if sum(seconds) > 60:
            break
    return min(seconds), _peak()


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _ours(point: dict[str, Any]) -> dict[str, Any]:
    import torch

    from moeverify.coupling.solving.solve import link, solve
    from moeverify.coupling.tracing.trace import trace
    from moeverify.models.forward import Example, call_model
    from moeverify.models.roles import find_roles

    model, inputs = _build(point)

    def forward() -> None:
        with torch.no_grad():
            call_model(model, inputs, use_cache=False)

    kept: list[Any] = []

    def traced() -> None:
        kept[:] = ()
        roles = find_roles(model)
        lists = [layer.experts for layer in roles.layers if layer.layout == "listed"]
        kept.append(trace(model, Example(inputs), expert_lists=lists))

    forward()
    forward_seconds, forward_peak = _least(forward)
    trace_seconds, trace_peak = _least(traced)
    solve_seconds, solve_peak = _least(lambda: solve(kept[0], link(kept[0])))
    total = trace_seconds + solve_seconds
    return {
        "experts": point["experts"],
        "layers": point["layers"],
        "operations": len(kept[0].relations.operations),
        "forward": round(forward_seconds, 4),
        "trace": round(trace_seconds, 4),
        "solve": round(solve_seconds, 4),
        "total": round(total, 4),
        "forwards": round(total / forward_seconds, 2),
        "forward_mib": forward_peak >> 20,
        "total_mib": max(trace_peak, solve_peak) >> 20,
        "memory": round(max(trace_peak, solve_peak) / forward_peak, 2),
    }


def _stock(point: dict[str, Any]) -> dict[str, Any]:
    import torch
    import torch_pruning

    from moeverify.models.sources import load_source

    torch.set_num_threads(1)
    loaded = load_source(point["source"])
    start = time.process_time()
    graph = torch_pruning.DependencyGraph().build_dependency(
        loaded.model, loaded.example_inputs, output_transform=lambda output: output.logits
    )
    groups = sum(1 for _ in graph.get_all_groups())
    return {"outcome": f"{groups} groups in {time.process_time() - start:.2f} s"}


def _beside_stock(point: dict[str, Any]) -> dict[str, Any]:
    import torch

    from moeverify.coupling.couplings import trace_couplings
    from moeverify.models.sources import load_source

    torch.set_num_threads(1)
    loaded = load_source(point["source"])
    result: list[Any] = []
    seconds, _ = _least(lambda: result.append(trace_couplings(loaded.model, loaded.example_inputs)))
    return {"outcome": f"{len(result[0].classes)} classes in {seconds:.2f} s"}


def _full_size(point: dict[str, Any]) -> dict[str, Any]:
    import torch

    torch.set_num_threads(2)
    from transformers import AutoModelForCausalLM  # noqa: F401  imported before the clock runs

    from moeverify.inspection.inspection import inspect_source

    before, start, wall = _peak(), time.process_time(), time.perf_counter()
    found = inspect_source(point["source"], full_size=True)
    return {
        "source": point["source"],
        "parameters": found.parameters,
        "experts": len(found.roles.layers[0].experts),
        "moe_layers": len(found.roles.layers),
        "classes": len(found.classes),
        "seconds": round(time.process_time() - start, 1),
        "wall_seconds": round(time.perf_counter() - wall, 1),
        "gib": round((_peak() - before) / 2**30, 2),
    }


_POINTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "ours": _ours,
    "stock": _stock,
    "beside_stock": _beside_stock,
    "full_size": _full_size,
}


def tables(results: dict[str, Any]) -> str:
    """The results for people, each target with what was measured."""
    lines = [
        "# What tracing and solving cost",
        "",
        "Made by `python -m benchmarks.couplings`; the numbers are in couplings-speed.json. Times are processor",
        f"seconds on a thread; hidden size {results['hidden']}, 64 tokens, top-2 routing; `forwards` is trace + solve",
        "over one plain forward of the same model in the same process, `memory` the ratio of the peaks of",
        f"resident memory. {', '.join(f'{k} {v}' for k, v in results['versions'].items())}; {results['date']}.",
    ]
    for series in results["series"]:
        done = [p for p in series["points"] if "forwards" in p]
        worst = max((p["forwards"] for p in done), default=math.nan)
        slope = series["exponent"]["total"]
        lines += [
            "",
            f"## {series['storage'].capitalize()} experts, growing in {series['axis']}",
            "",
            f"Growth exponent of trace + solve {slope} (target at most {MOST_EXPONENT}: "
            f"{_met(slope <= MOST_EXPONENT)}; the forward itself {series['exponent']['forward']}). "
            f"At most {worst} forwards (target {MOST_FORWARDS:g}: {_met(worst <= MOST_FORWARDS)}).",
            "",
            f"| {series['axis']} | operations | forward s | trace s | solve s | forwards | memory |",
            "|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for p in series["points"]:
            if "forwards" in p:
                lines.append(
                    f"| {p[series['axis']]} | {p['operations']} | {p['forward']} | {p['trace']} | {p['solve']} "
                    f"| {p['forwards']} | {p['memory']} |"
                )
            else:
                lines.append(f"| | {p['outcome']} | | | | | |")
    lines += [
        "",
        "## Beside stock Torch-Pruning",
        "",
        f"Its `DependencyGraph` builds and lists all groups of tiny models, at most {STOCK_LIMIT} s each.",
        "",
        "| model | stock | ours |",
        "|---|---|---|",
    ]
    lines += [f"| {p['source']} | {p['stock']} | {p['ours']} |" for p in results["stock"]]
    if results["full_size"]:
        lines += [
            "",
            "## Full size, without weights",
            "",
            f"Build, trace and solve; targets {MOST_SECONDS:g} s and {MOST_GIB:g} GiB on two cores.",
            "",
            "| model | parameters | experts | MoE layers | classes | seconds | GiB grown | targets |",
            "|---|---:|---:|---:|---:|---:|---:|---|",
        ]
        for p in results["full_size"]:
            if "outcome" in p:
                lines.append(f"| {p['outcome']} | | | | | | | |")
                continue
            good = _met(p["seconds"] < MOST_SECONDS and p["gib"] < MOST_GIB)
            lines.append(
                f"| {p['source']} | {p['parameters'] / 1e9:.0f}B | {p['experts']} | {p['moe_layers']} | {p['classes']} "
                f"| {p['seconds']} | {p['gib']} | {good} |"
            )
    return "\n".join(lines) + "\n"


def _met(good: bool) -> str:
    return "met" if good else "not met"


if __name__ == "__main__":
    main()
