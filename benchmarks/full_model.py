"""The full pruner on a model of real size: ``python -m benchmarks.full_model --device cuda``.

Builds Qwen3-30B-A3B's configuration with random weights, prunes it, checks the outcome, and writes seconds, memory and
tokens per second as JSON into ``reports/gpu/``. Runs at reduced size anywhere: ``--layers 2 --hidden 64 --experts 8
--expert-channels 32 --vocabulary 128 --heads 4 --device cpu --dtype float32``.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

import moeverify as mv
from benchmarks import full_model_checks as checks
from benchmarks.full_model_weights import build, make_config
from moeverify.base.files import write_text
from moeverify.base.versions import versions
from moeverify.models.device import check_device
from moeverify.models.sources import parse_dtype
from moeverify.pruning.step.carry_out import carry_out

GIB = 2**30


class Stages:
    """Seconds and peak memory of each stage."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.seconds: dict[str, float] = {}
        self.peak: dict[str, int] = {}

    def sync(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure one stage. On a CPU the peak is that of the process so far."""
        self.sync()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        begin = time.perf_counter()
        yield
        self.sync()
        self.seconds[name] = time.perf_counter() - begin
        self.peak[name] = (
            torch.cuda.max_memory_allocated()
            if self.cuda
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        print(f"{name:20} {self.seconds[name]:9.3f} s   peak {self.peak[name] / GIB:7.2f} GiB", flush=True)


@torch.no_grad()
def tokens_per_second(model: nn.Module, ids: torch.Tensor, stages: Stages, repeats: int) -> float:
    """Forward passes without cache over ``ids``, after one to warm up."""
    model(input_ids=ids, use_cache=False)
    stages.sync()
    begin = time.perf_counter()
    for _ in range(repeats):
        model(input_ids=ids, use_cache=False)
    stages.sync()
    return repeats * ids.numel() / (time.perf_counter() - begin)


@torch.no_grad()
def copy_once(model: nn.Module, stages: Stages) -> float:
    """Seconds that copying every weight of ``model`` once takes: the least that pruning in place can cost."""
    stages.sync()
    begin = time.perf_counter()
    for parameter in model.parameters():
        parameter.detach().clone()
    stages.sync()
    return time.perf_counter() - begin


def size(model: nn.Module) -> dict[str, int]:
    """Parameters and bytes."""
    parameters = list(model.parameters())
    return {
        "parameters": sum(p.numel() for p in parameters),
        "bytes": sum(p.numel() * p.element_size() for p in parameters),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all stages; the result as plain data."""
    device, dtype = torch.device(check_device(arguments.device)), parse_dtype(arguments.dtype)
    changes = {
        key: value
        for key, value in (
            ("num_hidden_layers", arguments.layers),
            ("hidden_size", arguments.hidden),
            ("num_experts", arguments.experts),
            ("moe_intermediate_size", arguments.expert_channels),
            ("vocab_size", arguments.vocabulary),
            ("num_attention_heads", arguments.heads),
            ("head_dim", arguments.head_dim),
        )
        if value is not None
    }
    config = make_config(**changes)
    config.num_key_value_heads = min(config.num_key_value_heads, config.num_attention_heads)
    config.num_experts_per_tok = min(config.num_experts_per_tok, config.num_experts)
    original = copy.deepcopy(config)
    stages = Stages(device)
    with stages("build"):
        model = build(config, dtype, device, arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)
    shape = (arguments.rows, arguments.length)
    ids = torch.randint(0, config.vocab_size, shape, generator=generator).to(device)
    before = size(model)
    speed_before = tokens_per_second(model, ids, stages, arguments.repeats)
    with stages("trace"):
        pruner = mv.MoEPruner(
            model, {"input_ids": ids[:2, :32]}, ignored_layers=[model.lm_head], **_request(arguments, ids)
        )
    with stages("plan"):
        plan = pruner.plan()
    with stages("apply"):
        carry_out(model, plan)
    after = size(model)
    seconds_copy = copy_once(model, stages)
    speed_after = tokens_per_second(model, ids, stages, arguments.repeats)
    found = _check(arguments, model, original, plan, ids, stages, after["bytes"])
    return {
        "command": f"python -m benchmarks.full_model {' '.join(sys.argv[1:])}".strip(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "device": _device_name(device),
        "versions": dict(versions()),
        "model": {"type": original.model_type, **changes, "dtype": arguments.dtype, **_asked(arguments)},
        "before": {**before, "tokens_per_second": speed_before},
        "after": {**after, "tokens_per_second": speed_after},
        "seconds": {**stages.seconds, "copy_once": seconds_copy},
        "peak_bytes": stages.peak,
        "checks": found,
    }


def _asked(arguments: argparse.Namespace) -> dict[str, float]:
    """The ratio, and whether it is that of whole experts."""
    if arguments.expert_ratio:
        return {"ratio": arguments.expert_ratio, "expert_ratio": arguments.expert_ratio}
    return {"ratio": arguments.ratio}


def _request(arguments: argparse.Namespace, ids: torch.Tensor) -> dict[str, Any]:
    """Arguments of the pruner: channels of every kind by magnitude, or whole experts by ``reap`` on ``ids``."""
    if arguments.expert_ratio:
        ratios = {"experts": arguments.expert_ratio}
        return {"pruning_ratio": 0.0, "ratios": ratios, "expert_criterion": "reap", "calibration": [{"input_ids": ids}]}
    importance = tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean")
    return {"importance": importance, "pruning_ratio": arguments.ratio, "round_to": 4}


def _check(
    arguments: argparse.Namespace,
    model: nn.Module,
    original: Any,
    plan: Any,
    ids: torch.Tensor,
    stages: Stages,
    needed: int,
) -> dict[str, str]:
    """Each check's outcome: ``pass``, why it was skipped, or what is wrong."""
    result: dict[str, str] = {}
    with stages("check weights"):
        result["kept-weights"] = checks.kept_weights(model, original, plan, arguments.seed) or "pass"
    result["config-in-step"] = checks.config_in_step(model) or "pass"
    with stages("check experts"):
        wrong, forced = checks.every_expert(model, ids)
        result["forward-every-expert"] = wrong or ("pass" if not forced else f"pass; {forced} by tokens sent to them")
    layers = min(arguments.masked_layers, original.num_hidden_layers)
    masked = f"masked-equivalence of {layers} layers"
    if arguments.expert_ratio:
        result[masked] = "skip: the mask here is of channels; `moeverify verify --ratio experts=R` masks whole experts"
    else:
        with stages("check masked"):
            wrong, error = checks.masked(model, original, plan, layers, arguments.seed, ids[:2, :32])
        result[masked] = wrong or "pass"
        print(f"masked original: relative error {error:.1e}")
    place = arguments.folder or Path(".")
    if arguments.reload == "no":
        result["reload"] = "skip: not asked for"
    elif shutil.disk_usage(place).free < 1.2 * needed:
        result["reload"] = f"skip: {needed / GIB:.0f} GiB do not fit the disk"
    else:
        with stages("check reload"):
            result["reload"] = checks.reload(model, ids[:2, :32], arguments.folder) or "pass"
    return result


def _commit() -> str:
    words = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parent)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU {platform.machine()}"


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--device", default="cuda")
    options.add_argument("--dtype", default="bfloat16")
    options.add_argument("--ratio", type=float, default=0.5)
    options.add_argument("--expert-ratio", type=float, help="remove this share of whole experts by reap instead")
    options.add_argument("--seed", type=int, default=0)
    for name in ("layers", "hidden", "experts", "expert-channels", "vocabulary", "heads", "head-dim"):
        options.add_argument(f"--{name}", type=int, help="reduced size; the real one if not given")
    options.add_argument("--rows", type=int, default=8)
    options.add_argument("--length", type=int, default=512, help="tokens of each row")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--masked-layers", type=int, default=2)
    options.add_argument("--reload", choices=["auto", "no"], default="auto")
    options.add_argument("--folder", type=Path, help="where the reload check may write")
    options.add_argument("--out", type=Path, help="JSON file; reports/gpu/NAME.json for a GPU, none for a CPU")
    return options


def main(words: list[str] | None = None) -> int:
    """Command line; 0 if every check passed or was skipped, 1 if one failed, 2 if there is no such device."""
    arguments = parser().parse_args(words)
    try:
        result = measure(arguments)
    except mv.MoEVerifyError as error:
        print(f"full_model: {error}", file=sys.stderr)
        return 2
    for name, outcome in result["checks"].items():
        print(f"{name:35} {outcome}")
    out = arguments.out
    if out is None and not result["device"].startswith("CPU"):
        out = Path("reports/gpu", f"full-model-{result['device'].lower().replace(' ', '-')}.json")
    if out is not None:
        write_text(out, json.dumps(result, indent=1) + "\n")
    return 0 if all(o.startswith(("pass", "skip")) for o in result["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
