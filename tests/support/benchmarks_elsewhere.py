"""Benchmarks at a small size on the separate device; what they measure there means nothing, that they run does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from separate_device import NAME, moved
from torch import nn

from benchmarks import calibration, couplings, expert_criteria, full_model, full_model_checks, full_model_weights
from benchmarks import groups as groups_benchmark
from benchmarks import planning as planning_benchmark
from moeverify.models.sources import load_source


def elsewhere(module: Any, build: str) -> None:
    """Let a benchmark's builder give models and inputs on the separate device."""
    original = getattr(module, build)

    def built(*args: Any) -> Any:
        return tuple(moved(part) for part in original(*args))

    setattr(module, build, built)


def full() -> Any:
    """The whole of the benchmark on a real-size model, but for the reload in a process that has no such device."""
    build, random_tensor = full_model_weights.build, full_model_weights.random_tensor

    def drawn(name: str, shape: Any, dtype: torch.dtype, device: torch.device, seed: int) -> torch.Tensor:
        return random_tensor(name, shape, dtype, torch.device("cpu"), seed).to(device)  # the device has no generators

    def built(config: Any, dtype: torch.dtype, device: torch.device, seed: int) -> nn.Module:
        return moved(build(config, dtype, torch.device("cpu"), seed))

    full_model_checks.random_tensor = full_model_weights.random_tensor = drawn
    full_model.build = full_model_checks.build = built
    full_model.check_device = str
    words = "--layers 2 --hidden 32 --experts 4 --expert-channels 16 --vocabulary 64 --heads 2 --head-dim 16"
    words += f" --rows 4 --length 16 --repeats 1 --dtype float32 --reload no --device {NAME}"
    result = full_model.measure(full_model.parser().parse_args(words.split()))
    wrong = {name: said for name, said in result["checks"].items() if not said.startswith(("pass", "skip: not asked"))}
    return {"wrong": wrong, "measured": all(result["seconds"].values()), "checks": len(result["checks"])}


def plans() -> Any:
    """Plans by importances that are scored at once, and by one that is called expert by expert."""
    elsewhere(planning_benchmark, "build")
    points = [planning_benchmark.measure(name, 2, 4) for name in planning_benchmark.IMPORTANCES]
    return {"wrong": {}, "measured": all(point["later"] and point["scores"] for point in points)}


def groups() -> Any:
    """Groups of listed experts."""
    elsewhere(groups_benchmark, "build")
    return {"wrong": {}, "measured": groups_benchmark.measure(4, 1)["found"] == 5}


def traces() -> Any:
    """A trace of fused experts, solved."""
    elsewhere(couplings, "_build")
    point = couplings._ours({"hidden": 64, "experts": 4, "layers": 2, "storage": "fused"})
    return {"wrong": {}, "measured": point["operations"] > 0 and point["forward"] > 0}


def passes() -> Any:
    """Calibration passes over listed experts."""

    def build() -> Any:
        return moved(nn.Sequential(calibration.Listed(16, 8, experts=4)).eval()), moved(torch.randn(64, 16))

    return {"wrong": {}, "measured": all(calibration.cost(build))}


def experts() -> Any:
    """Whole experts removed by every criterion, and silenced; lm-eval is left out."""
    from dataclasses import replace

    loaded = load_source("zoo:mixtral")
    loaded = replace(loaded, model=moved(loaded.model), example_inputs=moved(loaded.example_inputs))
    before, wrong = sum(p.numel() for p in loaded.model.parameters()), {}
    for criterion in expert_criteria.EXPERT_CRITERIA:
        model, kept = expert_criteria.remove(loaded, [loaded.example_inputs], criterion, 0.5, 0)
        if sum(p.numel() for p in model.parameters()) >= before:
            wrong[criterion] = "nothing removed"
    with torch.no_grad():
        silenced = expert_criteria.silence(loaded.model, kept)(**loaded.example_inputs).logits
    return {"wrong": wrong, "measured": silenced.device.type == NAME}


BENCHMARKS: dict[str, Callable[[], Any]] = {
    "calibration": passes,
    "couplings": traces,
    "expert_criteria": experts,
    "full_model": full,
    "groups": groups,
    "planning": plans,
}
