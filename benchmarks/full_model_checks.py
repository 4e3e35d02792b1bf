"""What a real-size model can be held to when there is no room for a second copy of it.

Kept weights are compared bit for bit with the originals, made again one at a time. The masked oracle runs on the first
layers at full width in float64: pruning is per layer apart from the residual stream, so a cut in depth shows the same.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.full_model_weights import build, random_tensor, shapes_before
from moeverify.checks.kept import Kept
from moeverify.checks.masked_equivalence import TOLERANCE
from moeverify.checks.masking import mask_removed
from moeverify.checks.reload import GPU_ROUNDINGS
from moeverify.exercise import count_reached, run
from moeverify.precision import float64_throughout, in_float64
from moeverify.pruning.apply import slice_kept
from moeverify.pruning.configuration.skeleton import shapes_of, skeleton
from moeverify.pruning.plan import Plan
from moeverify.roles import find_roles


@torch.no_grad()
def kept_weights(model: nn.Module, config: Any, plan: Plan, seed: int) -> str:
    """Empty if every parameter is the original at the kept positions, bit for bit; else what is not."""
    by_name: dict[str, dict[int, Any]] = {}
    for (name, dim), kept in plan.keep.items():
        by_name.setdefault(name, {})[dim] = kept
    for name, shape in shapes_before(model, config).items():
        parameter = model.get_parameter(name)
        expected = random_tensor(name, shape, parameter.dtype, parameter.device, seed)
        for dim, kept in by_name.get(name, {}).items():
            expected = slice_kept(expected, dim, kept)
        if not torch.equal(expected, parameter):
            return f"{name} does not hold the original values at the kept positions"
    return ""


def config_in_step(model: nn.Module) -> str:
    """Empty if the configuration rebuilds the same shapes; else what differs."""
    wanted, found = shapes_of(skeleton(model, model.config)), shapes_of(model)
    wrong = [name for name in wanted if wanted[name] != found.get(name)]
    return f"the configuration says {wanted[wrong[0]]} for {wrong[0]}, which is {found.get(wrong[0])}" if wrong else ""


@torch.no_grad()
def every_expert(model: nn.Module, ids: torch.Tensor) -> str:
    """Empty if the forward is finite and every routed expert got a token; else what is wrong."""
    with count_reached(model, find_roles(model)) as reached:
        logits = run(model, {"input_ids": ids})
    if not logits.isfinite().all():
        return "logits are not finite"
    missed = [name for name, count in reached.items() if not count]
    return f"{len(missed)} experts got no token, such as {missed[0]}; use more tokens" if missed else ""


def masked(model: nn.Module, config: Any, plan: Plan, layers: int, seed: int, ids: torch.Tensor) -> tuple[str, float]:
    """The first ``layers`` layers against the original's with the removed channels held at zero, in float64.

    Returns what is wrong (empty if nothing) and the relative error.
    """
    first = next(model.parameters())
    short = copy.deepcopy(config)
    short.num_hidden_layers = layers
    original = in_float64(build(short, first.dtype, first.device, seed))
    names = {name for name, _ in original.named_parameters()}
    kept = {(n, d): Kept(positions, True) for (n, d), positions in plan.keep.items() if n in names}
    cut_config = copy.deepcopy(model.config)
    cut_config.num_hidden_layers = layers
    cut = build(cut_config, first.dtype, first.device, seed)
    with torch.no_grad():
        for name, parameter in cut.named_parameters():
            parameter.copy_(model.get_parameter(name))
    cut = in_float64(cut)
    with float64_throughout():
        before = run(original, {"input_ids": ids})
        mask_removed(original, kept, cut)
        expected, got = run(original, {"input_ids": ids}), run(cut, {"input_ids": ids})
    error = float((got - expected).abs().max() / expected.abs().max())
    effect = float((before - expected).abs().max() / before.abs().max())
    if not error < TOLERANCE:
        return f"differs from the masked original by {error:.1e} (allowed {TOLERANCE:.0e})", error
    return ("" if effect > 1e3 * TOLERANCE else "the mask changed nothing, so nothing was shown"), error


_PROGRAM = """
import json, sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
folder, dtype, device = sys.argv[1:4]
model, info = AutoModelForCausalLM.from_pretrained(
    folder + "/model", dtype=getattr(torch, dtype), device_map=device, output_loading_info=True)
with torch.no_grad():
    logits = model.eval()(load_file(folder + "/ids.safetensors")["ids"].to(device)).logits
save_file({"logits": logits.cpu().contiguous()}, folder + "/logits.safetensors")
json.dump({k: sorted(map(str, v)) for k, v in info.items() if v}, open(folder + "/info.json", "w"))
"""


def reload(model: nn.Module, ids: torch.Tensor, folder: Path | None) -> str:
    """Empty if a fresh process of plain transformers gives the same logits from a folder; else what is wrong."""
    expected = run(model, {"input_ids": ids}).cpu()
    device, dtype = ids.device, str(expected.dtype).removeprefix("torch.")
    with tempfile.TemporaryDirectory(prefix="moeverify-full-", dir=folder) as place:
        model.save_pretrained(f"{place}/model")
        save_file({"ids": ids.cpu().contiguous()}, f"{place}/ids.safetensors")
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, place, dtype, str(device)], capture_output=True, text=True
        )
        if done.returncode:
            return f"cannot be loaded again: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
        info = json.loads(Path(place, "info.json").read_text("utf-8"))
        logits = load_file(f"{place}/logits.safetensors")["logits"]
    if info:
        return f"{next(iter(info))} on reload: {next(iter(info.values()))[0]}"
    allowed = 0.0 if device.type == "cpu" else GPU_ROUNDINGS * torch.finfo(expected.dtype).eps
    error = float((logits.double() - expected.double()).abs().max() / expected.double().abs().max())
    return "" if error <= allowed else f"logits differ by {error:.1e} of the largest (allowed {allowed:.0e})"
