"""``reload``"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from moeverify.checks.context import Context
from moeverify.checks.evidence.fresh_process import load_afresh
from moeverify.checks.registry import Finding, check, failed, passed, skipped
from moeverify.models.device import input_device
from moeverify.models.exercise import run, vary_inputs
from moeverify.models.memory_layout import laid_out_afresh
from moeverify.models.skeleton import has_config

# Kernels of a GPU may add in another order each time; so many units in the last place of the largest logit are allowed.
GPU_ROUNDINGS = 64


@check("reload")
def reload(context: Context) -> Finding:
    """Proves that ``save_pretrained`` and ``from_pretrained`` in a fresh process of plain transformers give the same
    logits, or the first output of a model without any (on a CPU bit for bit, on a GPU up to the order of additions),
    with no missing, unexpected or mismatched key. What was loaded is copied out of the mapped file first, since some
    kernels add in another order where memory is not aligned.

    Says nothing of other transformers releases.
    """
    model = context.pruned
    if not has_config(model) or not (hasattr(model, "lm_head") or hasattr(transformers, type(model).__name__)):
        return skipped("not a model of transformers; there is no standard way to reload it")
    inputs = vary_inputs(context.original, context.example_inputs, context.seed + 7)
    if not isinstance(inputs, dict):
        inputs = {
            getattr(model, "main_input_name", "input_ids"): inputs if isinstance(inputs, torch.Tensor) else inputs[0]
        }
    return reloaded(model, inputs, context.dtype)


def reloaded(model: nn.Module, inputs: dict[str, Any], dtype: str, place: Path | None = None) -> Finding:
    """Save ``model``, load it in a fresh process, and compare logits on ``inputs``; ``place`` is where to save."""
    device = input_device(model)
    with laid_out_afresh(model):
        expected = run(model, inputs).cpu()
    with tempfile.TemporaryDirectory(prefix="moeverify-reload-", dir=place) as folder:
        try:
            model.save_pretrained(f"{folder}/model")
        except Exception as error:
            return failed(f"save_pretrained failed: {type(error).__name__}: {error}")
        tensors = {k: v.cpu().contiguous() for k, v in inputs.items() if isinstance(v, torch.Tensor)}
        save_file(tensors, f"{folder}/inputs.safetensors")
        experts = getattr(model.config, "_experts_implementation", None) or ""
        attention = getattr(model.config, "_attn_implementation", None) or "eager"
        threads = str(torch.get_num_threads())
        code, said = load_afresh([folder, dtype, experts, attention, threads, str(device)])
        if code:
            last = (said.strip().splitlines() or ["no message"])[-1]
            return failed(f"a fresh process cannot load the saved model: {last}", stderr=said[-4000:])
        info = json.loads(Path(folder, "info.json").read_text("utf-8"))
        logits = load_file(f"{folder}/logits.safetensors")["logits"]
    if info:
        kind = next(iter(info))
        return failed(f"{kind.replace('_', ' ')} on reload: {info[kind][0]}", keys=info)
    allowed = 0.0 if device.type == "cpu" else GPU_ROUNDINGS * torch.finfo(expected.dtype).eps
    worst = float((logits.double() - expected.double()).abs().max() / expected.double().abs().max().clamp_min(1e-30))
    same = worst <= allowed if allowed else torch.equal(logits, expected)
    if logits.dtype != expected.dtype or not same:
        return failed(f"the reloaded model's logits differ by up to {worst:.1e} of their largest (allowed "
                      f"{allowed:.0e})", difference=worst, tolerance=allowed)  # fmt: skip
    how = "bit for bit" if not allowed else f"to {worst:.1e} (allowed {allowed:.0e} on {device.type})"
    return passed(f"a fresh process gives the same logits {how}, all keys accounted for")
