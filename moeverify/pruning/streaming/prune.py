"""Prune a folder into another without the whole model in memory; a killed run resumes where it was."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch_pruning.pruner.importance import (
    GroupMagnitudeImportance,
    LAMPImportance,
    MagnitudeImportance,
    RandomImportance,
)

from moeverify.base.scratch import remove_left_over
from moeverify.errors import PlanError
from moeverify.models.folder.stored_model import StoredModel, open_stored_model
from moeverify.pruning.checkpoint.arguments import PruneArguments, bring_companions
from moeverify.pruning.checkpoint.folders import whole_folder
from moeverify.pruning.checkpoint.mtp import keep_or_drop
from moeverify.pruning.checkpoint.plan_check import check_plan
from moeverify.pruning.checkpoint.plan_file import UNKNOWN_DIGEST, PlanDocument, document_plan
from moeverify.pruning.checkpoint.saved import PLAN_FILE, Progress, PrunedCheckpoint
from moeverify.pruning.configuration import ConfigUpdate
from moeverify.pruning.streaming.journal import Journal, request_of
from moeverify.pruning.streaming.progress import Meter
from moeverify.pruning.streaming.scoring import LayerByLayer
from moeverify.pruning.streaming.writing import FolderWriter, parameters, start_over

# Importances that read weights alone. Subclasses may read more.
_BY_WEIGHTS = (GroupMagnitudeImportance, MagnitudeImportance, LAMPImportance, RandomImportance)
# Arguments of MoEPruner that need no model in memory.
_STREAMED = {"expert_criterion", "calibration", "prune_shared_experts", "expert_ranking", "max_expansions"}
_STREAMED |= {"global_pruning", "isomorphic", "max_pruning_ratio"}


@dataclass(frozen=True)
class Streamed:
    """One streamed run: name and folder of the source, dtype, target folder, seed, progress callback."""

    source: str
    folder: Path
    dtype: torch.dtype
    target: str | Path
    overwrite: bool
    seed: int
    progress: Progress


def needs_memory(arguments: PruneArguments) -> str:
    """Reason why these arguments need the whole model in memory; empty if they do not."""
    importance = arguments.made_importance()
    if type(importance) not in _BY_WEIGHTS and not getattr(importance, "reads_weights_alone", False):
        return f"{type(importance).__name__} may need gradients or the model itself"
    if others := sorted(arguments.more.keys() - _STREAMED):
        return f"{others[0]} works on the model itself"
    return ""


def prune_folder(run: Streamed, arguments: PruneArguments) -> PrunedCheckpoint:
    """Prune a folder into another one.

    Raises ``HeldInMemory`` if the folder can only be read or written as a whole; nothing is left behind then.
    """
    named = {**vars(arguments), "dtype": run.dtype, "seed": run.seed, "overwrite": run.overwrite}
    del named["save_statistics"], named["check_plan_for"]  # they decide nothing of what is written
    request = request_of(run.folder, named)
    with whole_folder(run.target, overwrite=run.overwrite, source=run.source, request=request) as (beside, folder):
        run.progress("open")
        stored = open_stored_model(run.source, run.folder, run.dtype, seed=run.seed)
        journal = Journal(beside)
        document = journal.plan()
        if document is None:
            document = journal.keep_plan(_planned(stored, run, arguments, journal.folder))
        else:
            run.progress("go on with the plan of the run before")
        notes = arguments.judged(stored.model, document.plan)
        done = _write(stored, document, None, beside, folder, run, journal)
    return replace(done, notes=(*notes, *done.notes))


def plan_folder(run: Streamed, arguments: PruneArguments) -> PrunedCheckpoint:
    """Write the plan alone to the file ``target``."""
    run.progress("open")
    stored = open_stored_model(run.source, run.folder, run.dtype, seed=run.seed)
    document = _planned(stored, run, arguments, None, None)
    notes = arguments.judged(stored.model, document.plan)
    document.write(Path(run.target))
    count = parameters(stored.model.parameters())
    return PrunedCheckpoint(Path(run.target), document, count, count, (*stored.loaded.notes, *notes))


def apply_to_folder(run: Streamed, document: PlanDocument) -> PrunedCheckpoint:
    """Carry out a plan that was read from a file.

    Raises ``PlanError`` if it was made for other weights, which is known when all of them are read; nothing is left.
    """
    named = {"plan": document.to_json(), "dtype": run.dtype, "seed": run.seed, "overwrite": run.overwrite}
    request = request_of(run.folder, named)
    with whole_folder(run.target, overwrite=run.overwrite, source=run.source, request=request) as (beside, folder):
        run.progress("open")
        stored = open_stored_model(run.source, run.folder, run.dtype, seed=run.seed)
        document.check_kind(stored.model)
        run.progress("check the plan")
        update = check_plan(stored.model, document.plan, stored.loaded.example_inputs)
        return _write(stored, document, update, beside, folder, run, Journal(beside))


def _planned(
    stored: StoredModel,
    run: Streamed,
    arguments: PruneArguments,
    place: Path | None,
    digest: str | None = UNKNOWN_DIGEST,
) -> PlanDocument:
    """The plan; ``place`` is a folder for activations. Without ``digest`` all weights are read to compute it."""
    if place is not None:
        remove_left_over(place)  # activations of a run that was killed
    pruner = arguments.pruner(stored.loaded, run.progress)
    blocks = stored.blocks
    meter = Meter("read", stored.inventory.nbytes, run.progress)
    blocks.on_read = meter.add
    try:
        reading = LayerByLayer(stored.model, blocks, pruner.importance, place)
        plan = arguments.plan(run.source, pruner, run.progress, reading)
        return document_plan(stored.model, plan, digest)
    finally:
        blocks.release()
        blocks.on_read = lambda nbytes: None


def _write(
    stored: StoredModel,
    document: PlanDocument,
    update: ConfigUpdate | None,
    beside: Path,
    folder: Path,
    run: Streamed,
    journal: Journal,
) -> PrunedCheckpoint:
    run.progress("prune")
    if journal.finishing:
        start_over(journal, beside)
    writer = FolderWriter(stored, document.plan, update, beside)
    writer.prepare()
    digest = writer.write(journal, Meter("write", stored.inventory.nbytes, run.progress))
    if document.base.digest not in (UNKNOWN_DIGEST, digest):
        raise PlanError(
            f"the plan was made for other weights: digest {document.base.digest[:19]}…, here {digest[:19]}…"
        )
    journal.begin_to_finish()
    document = replace(document, base=replace(document.base, digest=digest))
    notes = [
        *keep_or_drop(writer.pruned, run.folder, beside, document.plan.layers),
        *bring_companions(run.folder, beside),
    ]
    document.write(beside / PLAN_FILE)
    before, after = (parameters(model.parameters()) for model in (stored.model, writer.pruned))
    return PrunedCheckpoint(folder, document, before, after, (*stored.loaded.notes, *notes))
