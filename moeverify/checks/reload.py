"""``reload``"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from moeverify.base.foreign import left_by
from moeverify.base.memory import is_out_of_memory
from moeverify.base.scratch import scratch_folder
from moeverify.checks.context import Context, Saved
from moeverify.checks.evidence.fresh_process import load_afresh
from moeverify.checks.registry import Finding, check, failed, inconclusive, passed, skipped
from moeverify.models.device import input_device, release_cached_memory
from moeverify.models.exercise import run_all
from moeverify.models.memory_layout import laid_out_afresh
from moeverify.models.outputs import scale_of
from moeverify.models.skeleton import has_config
from moeverify.verdict import Status

# Kernels of a GPU may add in another order each time; so many units in the last place of the largest logit are allowed.
GPU_ROUNDINGS = 64


@check("reload")
def reload(context: Context) -> Finding:
    """Proves that a saved model, loaded by plain transformers in a fresh process, gives the same floating-point
    outputs, all of them. On a CPU they are equal bit for bit, on a GPU up to the order of additions. No key is missing,
    unexpected or mismatched. What was loaded is copied out of the mapped file first, since some kernels add in another
    order where memory is not aligned. Random numbers that a model draws are the same in both processes.

    A folder that the subject wrote itself is first compared with the base by the relations of ``certify``: headers,
    names, configuration, values. Inconclusive where outputs differ and those of the original, saved and loaded the same
    way, do too. Says nothing of other transformers releases.
    """
    model = context.pruned
    base = context.original
    if not has_config(base) or not _reloadable(base):
        return skipped("not a model of transformers; there is no standard way to reload it")
    if not has_config(model):
        return failed("the pruned model has lost the configuration or the save_pretrained that the original has")
    inputs = context.draw(7, length=context.lengths.longer)
    if not isinstance(inputs, dict):
        inputs = {
            getattr(model, "main_input_name", "input_ids"): inputs if isinstance(inputs, torch.Tensor) else inputs[0]
        }
    if context.behaviour.unsteady:
        return inconclusive(
            "two forwards of the original differ, so two processes cannot be compared; see deterministic"
        )
    certified = None
    if context.saved is not None and context.saved.by_subject and context.certify is not None:
        certified = context.certify(base, context.saved.folder)
        if certified.status is Status.FAIL:
            return certified
    finding = reloaded(model, inputs, _stored_as(base), saved=context.saved)
    if finding.status is Status.FAIL and "difference" in finding.evidence:
        before = reloaded(base, inputs, _stored_as(base))
        if before.status is Status.FAIL and "difference" in before.evidence:
            return inconclusive(
                f"the original reloads differently as well ({before.message}): it holds values that are not saved, "
                "such as buffers rounded by a cast; load it with from_pretrained, or give it as a folder",
                original=before.evidence["difference"],
                difference=finding.evidence["difference"],
            )
    if certified is None or finding.status is not Status.PASS:
        return finding
    if certified.status is not Status.PASS:
        return certified
    return passed(f"{certified.message}; {finding.message}", **certified.evidence)


def reloaded(
    model: transformers.PreTrainedModel,
    inputs: dict[str, Any],
    dtype: str,
    place: Path | None = None,
    saved: Saved | None = None,
) -> Finding:
    """Save ``model``, load it in a fresh process, and compare all outputs on ``inputs``; ``place`` is where to save.

    With ``saved`` nothing is saved here: the subject's process saved its own model there.
    """
    device = input_device(model)
    with laid_out_afresh(model):
        expected = {name: tensor.cpu() for name, tensor in run_all(model, inputs).items()}
    with scratch_folder("reload", place) as folder:
        try:
            if saved is None:
                model.save_pretrained(f"{folder}/model")
            elif saved.problem:
                return failed(f"save_pretrained failed: {saved.problem}")
            else:
                shutil.copytree(saved.folder, f"{folder}/model", symlinks=True)
        except Exception as error:
            return failed(f"save_pretrained failed: {left_by(error)}")
        # Copies: two inputs may be one tensor, which safetensors refuses.
        tensors = {k: v.cpu().contiguous().clone() for k, v in inputs.items() if isinstance(v, torch.Tensor)}
        save_file(tensors, f"{folder}/inputs.safetensors")
        experts = getattr(model.config, "_experts_implementation", None) or ""
        attention = getattr(model.config, "_attn_implementation", None) or "eager"
        threads = str(torch.get_num_threads())
        release_cached_memory()  # the fresh process needs it on the same device
        code, log = load_afresh([str(folder), dtype, experts, attention, threads, str(device), _auto_class(model)])
        if code:
            last = (log.strip().splitlines() or ["no message"])[-1]
            if is_out_of_memory(log, code):
                return inconclusive(f"memory ran out in the fresh process: {last}; use a smaller model or more memory")
            return failed(f"a fresh process cannot load the saved model: {last}", stderr=log[-4000:])
        info = json.loads(Path(folder, "info.json").read_text("utf-8"))
        outputs = load_file(f"{folder}/outputs.safetensors")
    if info:
        kind = next(iter(info))
        return failed(f"{kind.replace('_', ' ')} on reload: {info[kind][0]}", keys=info)
    if len(outputs) != len(expected):
        return failed(f"the reloaded model returns {len(outputs)} floating-point tensors, not {len(expected)}")
    most, limit = 0.0, 0.0
    for number, (name, before) in enumerate(expected.items()):
        after = outputs[str(number)]
        allowed = 0.0 if device.type == "cpu" else GPU_ROUNDINGS * torch.finfo(before.dtype).eps
        worst = _distance(before, after)
        most, limit = max(most, worst), max(limit, allowed)
        if after.dtype != before.dtype or worst > allowed:
            return failed(f"the reloaded model's {name} differ{'' if name == 'logits' else 's'} by up to {worst:.1e} "
                          f"of the largest (allowed {allowed:.0e})", difference=worst, tolerance=allowed)  # fmt: skip
    how = "bit for bit" if not limit else f"to {most:.1e} (allowed {limit:.0e} on {device.type})"
    return passed(f"a fresh process gives the same {', '.join(list(expected)[:3])} {how}, all keys accounted for")


def _reloadable(base: nn.Module) -> bool:
    """Whether a fresh process can load a model: by plain transformers, or by the code that its checkpoint brought."""
    config: Any = base.config
    known = config.model_type in (*CONFIG_MAPPING_NAMES, "synthetic_moe")
    return hasattr(transformers, type(base).__name__) or (known and hasattr(base, "lm_head")) or bool(_auto_class(base))


def _auto_class(model: nn.Module) -> str:
    """The class of transformers that loads a model by code of its checkpoint, which runs here already; else empty."""
    brought = type(model).__module__.startswith("transformers_modules.")
    entries = getattr(model.config, "auto_map", None) or {} if brought else {}
    return next((name for name in entries if name.startswith("AutoModel")), "")


def _stored_as(model: nn.Module) -> str:
    """Precision of most weights. A model that a function makes may have another precision than ``--dtype``."""
    counts: Counter[torch.dtype] = Counter()
    for parameter in model.parameters():
        if parameter.is_floating_point():
            counts[parameter.dtype] += parameter.numel()
    return str(counts.most_common(1)[0][0] if counts else torch.float32).removeprefix("torch.")


def _distance(before: torch.Tensor, after: torch.Tensor) -> float:
    """The largest difference, as a share of the largest value; infinite if other places are not finite."""
    if before.shape != after.shape:
        return float("inf")
    one, two = before.double(), after.double()
    same = (one == two) | (one.isnan() & two.isnan())
    if bool(same.all()):
        return 0.0
    gap = float((two - one)[~same].abs().max())
    return gap / (scale_of(one) or 1.0) if gap == gap else float("inf")
