"""From checkpoint to pruned checkpoint: load, prune, save, load again, and only then put the folder in place."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moeverify.errors import PruningRefused, SourceError, TraceError, UsageError
from moeverify.models.checkpoints import load_configuration, one_line, quiet_transformers
from moeverify.models.exercise import run_all
from moeverify.models.folder.stored_model import HeldInMemory
from moeverify.models.memory_layout import laid_out_afresh
from moeverify.models.quantised import quantisation_of
from moeverify.models.roles import Roles
from moeverify.models.sources import DTYPES, LoadedModel, load_source, parse_dtype, source_kind
from moeverify.models.stored import read_configuration, read_stored
from moeverify.pruning.checkpoint.arguments import PlanJudge, PruneArguments, bring_companions
from moeverify.pruning.checkpoint.folders import copy_companions, whole_folder
from moeverify.pruning.checkpoint.mtp import keep_or_drop, kept_names
from moeverify.pruning.checkpoint.plan_check import check_plan
from moeverify.pruning.checkpoint.plan_file import PlanDocument, document_plan
from moeverify.pruning.checkpoint.saved import PLAN_FILE, Progress, PrunedCheckpoint
from moeverify.pruning.choice.request import DEFAULT_RATIO
from moeverify.pruning.configuration import ConfigUpdate
from moeverify.pruning.plan.plan import Plan
from moeverify.pruning.step.carry_out import carry_out
from moeverify.pruning.streaming.prune import Streamed, apply_to_folder, needs_memory, plan_folder, prune_folder


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
    in_memory: bool = False,
    progress: Progress = lambda stage: None,
    check_plan_for: PlanJudge | None = None,
    **more: Any,
) -> PrunedCheckpoint:
    """Prune the model that ``source`` names and save it in the folder ``target``, with its plan beside it.

    A checkpoint folder is pruned tensor by tensor, and a run that was killed goes on where it was. What cannot be
    pruned that way is loaded as a whole; a note gives the reason. Nothing is left behind where an error is raised.

    Args:
        source: name of a model (see ``moeverify.models.sources``), usually a checkpoint folder.
        target: folder of the result, or with ``plan_only`` the file of the plan.
        pruning_ratio: share of the channels to remove; 0.5, or 0 beside a ratio for whole experts.
        ratios: pruning ratios by role, where they differ; 0 leaves a role alone.
        importance: name of an importance, ``module:attribute``, or an importance of Torch-Pruning.
        round_to: keep multiples of this many channels.
        ignored_layers: paths of layers whose outputs stay, and of parameters that stay whole.
        roles: names of experts, routers and shared experts where the usual ones do not find them.
        seed: seed of what is drawn.
        dtype: precision of the result; the checkpoint's own if not given.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``auto``.
        trust_remote_code: let a checkpoint run Python code of its own.
        overwrite: replace a folder that is there.
        plan_only: write the plan alone; nothing is pruned.
        save_statistics: file for the experts' statistics on calibration data.
        in_memory: load the model as a whole.
        progress: called with each stage.
        check_plan_for: called with the configuration and the plan's new entries before anything is pruned; returns
            notes, or raises.
        more: further arguments of ``MoEPruner``.

    Returns:
        The folder, its plan, the numbers of parameters and the notes.

    Raises:
        MoEVerifyError: with one line, for what cannot be done.

    Example::

        mv.prune_checkpoint("./model", "./half", ratios={"routed_experts": 0.5})

    """
    arguments = PruneArguments(
        pruning_ratio, ratios, importance, round_to, ignored_layers, roles, seed, save_statistics, check_plan_for, more
    )
    loading = {"seed": seed, "device": device, "trust_remote_code": trust_remote_code}
    why = ""
    run = None if in_memory else _streamed(source, target, dtype, overwrite, progress, **loading)
    if run is not None and not (why := needs_memory(arguments)):
        try:
            return plan_folder(run, arguments) if plan_only else prune_folder(run, arguments)
        except HeldInMemory as error:
            why = str(error)
        except TraceError:  # if it does not run at all, the same is said again of the loaded model
            why = "its forward looks at values, which a trace without weights does not have"
    held = (f"the model was loaded as a whole: {why}",) if why else ()

    def planned() -> tuple[LoadedModel, Plan, tuple[str, ...]]:
        loaded = load_base(source, dtype=dtype, progress=progress, **loading)
        plan = arguments.plan(source, arguments.pruner(loaded, progress), progress)
        return loaded, plan, (*held, *arguments.judged(loaded.model, plan))

    if plan_only:
        loaded, plan, notes = planned()
        document = document_plan(loaded.model, plan)
        document.write(Path(target))
        count = _parameters(loaded.model)
        return PrunedCheckpoint(Path(target), document, count, count, (*loaded.notes, *notes))
    with whole_folder(target, overwrite=overwrite, source=source) as (beside, folder):
        loaded, plan, notes = planned()
        document = document_plan(loaded.model, plan)
        done = _carry_out_and_save(loaded, document, plan, None, Saving(source, beside, folder, progress))
    return replace(done, notes=(*notes, *done.notes))


def _streamed(
    source: str, target: str | Path, dtype: str | None, overwrite: bool, progress: Progress, **loading: Any
) -> Streamed | None:
    """The run that prunes a folder tensor by tensor; ``None`` if the model has to be loaded as a whole."""
    kind, rest = source_kind(source)
    if kind != "folder" or not Path(rest).is_dir() or loading["device"] != "cpu" or loading["trust_remote_code"]:
        return None
    stored = _stored_configuration(source, trust_remote_code=False)
    wanted = parse_dtype(dtype or _stored_dtype(stored))
    return Streamed(source, Path(rest), wanted, target, overwrite, loading["seed"], progress)


def apply_plan_file(
    plan_path: str | Path,
    source: str,
    target: str | Path,
    *,
    device: str = "cpu",
    seed: int = 0,
    trust_remote_code: bool = False,
    overwrite: bool = False,
    in_memory: bool = False,
    progress: Progress = lambda stage: None,
) -> PrunedCheckpoint:
    """Make the pruned checkpoint again from its plan and the weights that the plan was made for, byte for byte.

    Raises ``PlanError`` if the file is no plan, was made for other weights, or holds what its cuts do not need.
    """
    document = PlanDocument.read(plan_path)
    loading = {"seed": seed, "device": device, "trust_remote_code": trust_remote_code}
    run = None if in_memory else _streamed(source, target, document.base.dtype, overwrite, progress, **loading)
    if run is not None:
        with contextlib.suppress(HeldInMemory, TraceError):
            return apply_to_folder(run, document)
    with whole_folder(target, overwrite=overwrite, source=source) as (beside, folder):
        loaded = load_base(source, dtype=document.base.dtype, progress=progress, **loading)
        progress("compare digests")
        document.check_base(loaded.model)
        progress("check the plan")
        update = check_plan(loaded.model, document.plan, loaded.example_inputs)
        return _carry_out_and_save(loaded, document, document.plan, update, Saving(source, beside, folder, progress))


def load_base(
    source: str, *, dtype: str | None, progress: Progress = lambda stage: None, **arguments: Any
) -> LoadedModel:
    """Load a source in ``dtype``, or in the precision that its checkpoint is stored in."""
    stored = _stored_configuration(source, trust_remote_code=arguments.get("trust_remote_code", False))
    wanted = parse_dtype(dtype or _stored_dtype(stored))
    quantised = quantisation_of(stored)
    progress(f"load ({quantised.note(wanted)})" if quantised else "load")
    loaded = load_source(source, dtype=wanted, **arguments)
    if not hasattr(loaded.model, "save_pretrained"):
        raise UsageError(f"{source} has no save_pretrained; prune it from Python and save its state_dict yourself")
    return loaded


def _stored_configuration(source: str, *, trust_remote_code: bool) -> dict[str, Any]:
    """The configuration of a folder or hub name; empty for other sources, and where the loader gives a better error."""
    kind, rest = source_kind(source)
    with contextlib.suppress(SourceError):
        if kind == "folder":
            return read_configuration(Path(rest), source)
        if kind == "hub":
            return load_configuration(source, source, trust_remote_code=trust_remote_code).to_dict()
    return {}


def _stored_dtype(stored: Mapping[str, Any]) -> str:
    text = stored.get("text_config")
    text = text if isinstance(text, dict) else {}
    dtype = stored.get("dtype") or stored.get("torch_dtype") or text.get("dtype") or text.get("torch_dtype")
    name = str(dtype or "float32").removeprefix("torch.")
    return "bfloat16" if quantisation_of(stored) and name not in DTYPES else name


@dataclass(frozen=True)
class Saving:
    """Destination of a pruned model: ``beside`` is the new folder that takes the place of ``folder`` in the end."""

    source: str
    beside: Path
    folder: Path
    progress: Progress


def _carry_out_and_save(
    loaded: LoadedModel, document: PlanDocument, plan: Plan, update: ConfigUpdate | None, saving: Saving
) -> PrunedCheckpoint:
    before = _parameters(loaded.model)
    saving.progress("prune")
    carry_out(loaded.model, plan, update)
    with quiet_transformers():
        saving.progress("save")
        notes = _save(loaded, document, saving)
        saving.progress("load again")
        _check_reload(loaded, saving.beside)
    return PrunedCheckpoint(saving.folder, document, before, _parameters(loaded.model), (*loaded.notes, *notes))


def _save(loaded: LoadedModel, document: PlanDocument, saving: Saving) -> list[str]:
    """Write the model and its companions; return notes on the parts that were kept or left out."""
    notes: list[str] = []
    model: Any = loaded.model
    kind, rest = source_kind(saving.source)
    model.save_pretrained(saving.beside, **_shard_size(Path(rest) if kind == "folder" else None))
    if kind == "hub":
        notes += _fetch_tokenizer(saving.source)
    origin = Path(rest) if kind == "folder" else _snapshot(saving.source) if kind == "hub" else None
    if origin is not None:
        notes += keep_or_drop(loaded.model, origin, saving.beside, document.plan.layers)
        notes += bring_companions(origin, saving.beside)
    elif loaded.tokenizer is not None:
        copy_companions(Path(loaded.tokenizer), saving.beside)
    document.write(saving.beside / PLAN_FILE)
    return notes


def _shard_size(folder: Path | None) -> dict[str, int]:
    """Shard size of the base if it has several files, so that the pruned folder is divided alike."""
    files = [] if folder is None else sorted(set(read_stored(folder).files.values()))
    return {"max_shard_size": max(f.stat().st_size for f in files)} if len(files) > 1 else {}


def _fetch_tokenizer(name: str) -> list[str]:
    """Bring a hub name's tokenizer into the cache, where the model is already; return a note if it has none."""
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        return [f"no tokenizer of {name} was copied: {one_line(error)}"]
    return []


def _snapshot(name: str) -> Path | None:
    """The folder in the hub's cache that a model was just loaded from."""
    from transformers.utils.hub import cached_file

    path = cached_file(name, "config.json", local_files_only=True, _raise_exceptions_for_missing_entries=False)
    return Path(path).parent if path else None


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def _check_reload(loaded: LoadedModel, folder: Path) -> None:
    """Raises ``PruningRefused`` unless the saved folder gives the same numbers as the model in memory.

    Weights that were loaded lie anywhere in a file's buffer, so both are held in fresh memory for the comparison.
    """
    model: Any = loaded.model
    with laid_out_afresh(model):
        expected = run_all(model, loaded.example_inputs)
    again, info = type(model).from_pretrained(
        folder,
        dtype=next(model.parameters()).dtype,
        attn_implementation=getattr(model.config, "_attn_implementation", None),
        output_loading_info=True,
    )
    beside = kept_names(folder)  # behind fewer layers they may have numbers that the class knows nothing of
    for kind, keys in info.items():
        if wrong := sorted(map(str, set(keys) - beside)):
            raise PruningRefused(f"the saved model cannot be loaded again, {kind}: {wrong[0]}")
    again.to(next(model.parameters()).device)
    with laid_out_afresh(again):
        got = run_all(again.eval(), loaded.example_inputs)
    if got.keys() != expected.keys():
        raise PruningRefused(f"the saved model returns {', '.join(got)}, and the pruned one {', '.join(expected)}")
    for name, before in expected.items():
        after = got[name]
        if before.shape != after.shape or not torch.allclose(after, before, rtol=0, atol=0, equal_nan=True):
            gap = (after.double() - before.double()).abs().max() if before.shape == after.shape else float("inf")
            raise PruningRefused(
                f"the saved model computes other values than the pruned one: {name} differs by up to {float(gap):.1e}"
            )
