"""From checkpoint to pruned checkpoint: load, prune, save, load again, and only then put the folder in place."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moeverify.errors import PruningRefused, UsageError
from moeverify.models.exercise import run_all
from moeverify.models.memory_layout import laid_out_afresh
from moeverify.models.roles import Roles
from moeverify.models.sources import LoadedModel, load_source, parse_dtype, quiet_transformers
from moeverify.pruning.checkpoint.folders import check_target, copy_companions, whole_folder
from moeverify.pruning.checkpoint.plan_file import PlanDocument, document_plan
from moeverify.pruning.choice.importances import importance_named
from moeverify.pruning.choice.request import DEFAULT_RATIO
from moeverify.pruning.pruner import MoEPruner
from moeverify.pruning.step.carry_out import carry_out

PLAN_FILE = "pruning_plan.json"
Progress = Callable[[str], None]


@dataclass(frozen=True)
class PrunedCheckpoint:
    """What was saved where, and the plan that made it."""

    folder: Path
    document: PlanDocument
    parameters_before: int
    parameters_after: int


def prune_checkpoint(
    source: str,
    target: str | Path,
    *,
    pruning_ratio: float = DEFAULT_RATIO,
    ratios: Mapping[str, Any] | None = None,
    importance: Any = "magnitude",
    round_to: int | None = None,
    ignored_layers: Sequence[str] = ("lm_head",),
    roles: Roles | None = None,
    seed: int = 0,
    dtype: str | None = None,
    device: str = "cpu",
    trust_remote_code: bool = False,
    overwrite: bool = False,
    plan_only: bool = False,
    save_statistics: str | Path | None = None,
    progress: Progress = lambda stage: None,
    **arguments: Any,
) -> PrunedCheckpoint:
    """Prune the model that ``source`` names and save it in the folder ``target``, with its plan beside it.

    ``importance`` is a name of ``importances``, ``module:attribute``, or an importance of Torch-Pruning. ``dtype`` is
    the checkpoint's own if not given. With ``plan_only``, ``target`` is the file to write the plan to and nothing is
    pruned. ``save_statistics`` is a file for what calibration data told of the experts. Further ``arguments`` go to
    ``MoEPruner``. Raises ``MoEVerifyError`` with one line for what cannot be done,
    and leaves nothing behind then.
    """
    folder = Path(target) if plan_only else check_target(target, overwrite=overwrite)
    progress("load")
    loaded = load_base(source, seed=seed, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    model = loaded.model
    before = sum(p.numel() for p in model.parameters())
    torch.manual_seed(seed)
    progress("trace")
    pruner = MoEPruner(
        model,
        loaded.example_inputs,
        importance=importance_named(importance) if isinstance(importance, str) else importance,
        pruning_ratio=pruning_ratio,
        ratios=ratios,
        round_to=round_to,
        roles=roles,
        ignored_layers=_ignored(model, ignored_layers),
        **arguments,
    )
    progress("plan")
    plan = pruner.plan()
    if save_statistics is not None and pruner.expert_statistics is not None:
        pruner.expert_statistics.write(save_statistics)
    if not plan.keep:
        because = f" ({plan.adjustments[0]})" if plan.adjustments else ""
        raise PruningRefused(f"nothing of {source} can be pruned{because}; `moeverify inspect {source}` says why")
    document = document_plan(model, plan)
    if plan_only:
        document.write(folder)
        return PrunedCheckpoint(folder, document, before, before)
    progress("prune")
    carry_out(model, plan)
    _save(loaded, document, folder, source, trust_remote_code, progress)
    return PrunedCheckpoint(folder, document, before, sum(p.numel() for p in model.parameters()))


def apply_plan_file(
    plan_path: str | Path,
    source: str,
    target: str | Path,
    *,
    device: str = "cpu",
    seed: int = 0,
    trust_remote_code: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda stage: None,
) -> PrunedCheckpoint:
    """Make the pruned checkpoint again from its plan and the weights that the plan was made for, byte for byte.

    Raises ``PlanError`` if the file is no plan or was made for other weights.
    """
    folder = check_target(target, overwrite=overwrite)
    document = PlanDocument.read(plan_path)
    progress("load")
    loaded = load_base(source, seed=seed, dtype=document.base.dtype, device=device, trust_remote_code=trust_remote_code)
    before = sum(p.numel() for p in loaded.model.parameters())
    progress("compare digests")
    document.check_base(loaded.model)
    progress("prune")
    carry_out(loaded.model, document.plan)
    _save(loaded, document, folder, source, trust_remote_code, progress)
    return PrunedCheckpoint(folder, document, before, sum(p.numel() for p in loaded.model.parameters()))


def load_base(source: str, *, dtype: str | None, **arguments: Any) -> LoadedModel:
    """Load a source in ``dtype``, or in the precision that its checkpoint is stored in."""
    loaded = load_source(source, dtype=parse_dtype(dtype or _stored_dtype(source)), **arguments)
    if not hasattr(loaded.model, "save_pretrained"):
        raise UsageError(f"{source} has no save_pretrained; prune it from Python and save its state_dict yourself")
    return loaded


def _stored_dtype(source: str) -> str:
    config = Path(source).expanduser() / "config.json"
    try:
        data = json.loads(config.read_text("utf-8"))
    except (OSError, ValueError):  # not a folder, or one that load_source will speak of
        data = {}
        if source.count("/") == 1 and ":" not in source:
            from transformers import AutoConfig

            try:
                data = {"dtype": AutoConfig.from_pretrained(source).dtype}
            except Exception:  # the loader says it better
                data = {}
    text = data.get("text_config") or {}
    stored = data.get("dtype") or data.get("torch_dtype") or text.get("dtype") or text.get("torch_dtype")
    return str(stored or "float32").removeprefix("torch.")


def _ignored(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    layers = []
    for name in names:
        try:
            layers.append(model.get_submodule(name))
        except AttributeError:
            if name != "lm_head":
                raise UsageError(f"the model has no layer {name!r} to ignore") from None
    return layers


def _save(
    loaded: LoadedModel,
    document: PlanDocument,
    folder: Path,
    source: str,
    trust_remote_code: bool,
    progress: Progress,
) -> None:
    model = loaded.model
    with whole_folder(folder) as beside, quiet_transformers():
        progress("save")
        model.save_pretrained(beside)
        origin = Path(source).expanduser()
        if origin.is_dir():
            copy_companions(origin, beside)
        elif loaded.tokenizer is not None:
            from transformers import AutoTokenizer

            AutoTokenizer.from_pretrained(loaded.tokenizer, trust_remote_code=trust_remote_code).save_pretrained(beside)
        document.write(beside / PLAN_FILE)
        progress("load again")
        _check_reload(loaded, beside)


@torch.no_grad()
def _check_reload(loaded: LoadedModel, folder: Path) -> None:
    """Raises ``PruningRefused`` unless the saved folder gives the same numbers as the model in memory.

    Weights that were loaded lie anywhere in a file's buffer, so both are held in fresh memory for the comparison.
    """
    model = loaded.model
    with laid_out_afresh(model):
        expected = run_all(model, loaded.example_inputs)
    again, info = type(model).from_pretrained(
        folder,
        dtype=next(model.parameters()).dtype,
        attn_implementation=getattr(model.config, "_attn_implementation", None),
        output_loading_info=True,
    )
    for kind, keys in info.items():
        if keys:
            raise PruningRefused(f"the saved model cannot be loaded again, {kind}: {sorted(map(str, keys))[0]}")
    again.to(next(model.parameters()).device)
    with laid_out_afresh(again):
        got = run_all(again.eval(), loaded.example_inputs)
    if got.keys() != expected.keys():
        raise PruningRefused(f"the saved model returns {', '.join(got)}, and the pruned one {', '.join(expected)}")
    for name, before in expected.items():
        after = got[name]
        if before.shape != after.shape or not torch.equal(after.nan_to_num(), before.nan_to_num()):
            gap = (after.double() - before.double()).abs().max() if before.shape == after.shape else float("inf")
            raise PruningRefused(
                f"the saved model computes something else than the pruned one: {name} differs by up to {float(gap):.1e}"
            )
