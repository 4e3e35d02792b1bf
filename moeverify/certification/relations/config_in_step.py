"""``config-in-step``"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from moeverify.certification.classify import kind_of
from moeverify.certification.evidence import Evidence, is_quantised
from moeverify.certification.matching.lists import lengths
from moeverify.certification.relations.changed_entries import PREDICTION, judge_entries
from moeverify.certification.relations.end_tokens import lost_ends, other_ends
from moeverify.certification.relations.engines import contradictions
from moeverify.certification.relations.entries import is_count
from moeverify.certification.relations.positions import shorter_context
from moeverify.certification.relations.registry import inconclusive, more, relation
from moeverify.certification.relations.same_in_base import in_pruned, list_cuts
from moeverify.certification.relations.stated_type import other_type
from moeverify.checks.registry import Finding, failed, passed
from moeverify.errors import MoEVerifyError
from moeverify.models.folder.checkpoint import Checkpoint
from moeverify.models.folder.headers import Stored
from moeverify.models.module_lists import renamed

# Types of weights that no scale belongs to.
PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_PREDICTION_NAMES = re.compile(r"(^|\.)mtp\.|nextn|eh_proj|mtp_block")


@relation("config-in-step")
def config_in_step(evidence: Evidence) -> Finding:
    """The configuration implies the shapes on disk, and differs from the base's only in sizes."""
    if is_quantised(evidence.inventory.config):
        if _is_plain(evidence.pruned) and not (
            is_quantised(evidence.base_inventory.config) and _is_plain(evidence.base)
        ):
            return failed(
                "quantization_config announces quantised weights, but all are stored plainly: remove the entry"
            )
        return inconclusive("the folder is quantised: shapes of packed weights are left to loads-whole")
    pruned = evidence.pruned
    theirs = in_pruned(evidence, evidence.base.naming.broken) if pruned.naming.broken else set()
    lines = [
        f"{name} {line}"
        for name, line in pruned.naming.broken.items()
        if "config.json implies" in line and name not in theirs
    ]
    lines += _kinds(evidence)
    lines += contradictions(evidence.inventory.config, evidence.base_inventory.config)
    lines += _prediction_layers(evidence)
    unsure: list[str] = []
    if evidence.same_config:
        lines += _grown(evidence)
        faults, unsure = judge_entries(evidence)
        lines += [*faults, *lost_ends(evidence)]
    if lines:
        return failed(more(lines), problems=lines, unsure=unsure)
    if unsure:
        return inconclusive(f"{more(unsure)}: whether that is meant cannot be seen", entries=unsure)
    said = "the configuration implies every shape on disk and differs from the base's in sizes alone"
    notes = [*other_ends(evidence), *other_type(evidence), *shorter_context(evidence)]
    return passed("; ".join([said, *notes]), notes=notes)


def _is_plain(side: Checkpoint) -> bool:
    """Whether a folder holds the model's own tensors and no others, all in types that need no scales."""
    naming, stored = side.naming, side.inventory.tensors.values()
    if naming.missing or naming.unexpected or naming.broken:
        return False
    return all(t.torch_dtype in PLAIN for t in stored if _is_real(t)) and any(_is_real(t) for t in stored)


def _kinds(evidence: Evidence) -> Iterator[str]:
    """Tensors that hold whole numbers where the model has real ones, or the reverse. Precision is free.

    What the base stores so as well is no fault of the pruning.
    """
    theirs = {kind_of(name) for name, _ in _of_another_kind(evidence.base)}
    for name, stored in _of_another_kind(evidence.pruned):
        if kind_of(name) not in theirs:
            implied = "whole numbers" if _is_real(stored) else "real numbers"
            yield f"{stored.name} is stored as {stored.dtype}, config.json implies {implied}"


def _of_another_kind(side: Checkpoint) -> Iterator[tuple[str, Stored]]:
    """Names of the model, each with the first of its tensors on disk that is of another kind of number."""
    wanted = side.skeleton.model.state_dict()
    for name, assembly in side.naming.tensors.items():
        stored = (one for several in assembly.sources.values() for one in several)
        other = next((s for s in stored if name in wanted and _is_real(s) != wanted[name].is_floating_point()), None)
        if other is not None and not wanted[name].is_complex():
            yield name, other


def _is_real(stored: Stored) -> bool:
    return stored.torch_dtype.is_floating_point


def _grown(evidence: Evidence) -> Iterator[str]:
    """Tensors larger than in the base; a pruned model has none, except for tokens that were added."""
    before, after = evidence.base.shapes, evidence.pruned.shapes
    lists = lengths(before)
    for path, count in lengths(after).items():
        if path in lists and count > lists[path]:
            yield f"{path} has {count} entries, the base {lists[path]}: base and pruned folder may be exchanged"
            return
    if len(lists) and lengths(after) != lists:
        return  # other layers stand in their places
    tokens = getattr(evidence.base.skeleton.config.get_text_config(), "vocab_size", None)
    loose = set()
    with contextlib.suppress(MoEVerifyError):
        loose = set(evidence.keep.loose)  # such as keys written out for each head of queries
    for name in (name for name in before if name in after and name not in loose):
        pairs = zip(before[name], after[name], strict=False)
        if any(new > old and old != tokens for old, new in pairs):
            shapes = f"{list(after[name])}, in the base {list(before[name])}"
            yield f"{name} has shape {shapes}: base and pruned folder may be exchanged"
            return


def _prediction_layers(evidence: Evidence) -> Iterator[str]:
    """Layers for multi-token prediction are there if and only if they are announced, and of the trunk's sizes."""
    announced = {k: v for k, v in evidence.inventory.config.items() if k in PREDICTION and is_count(v) and v > 0}
    mine, theirs = _prediction_tensors(evidence.pruned), _prediction_tensors(evidence.base)
    if announced and theirs and not mine:
        key, value = next(iter(announced.items()))
        yield f"{key} = {value} announces prediction layers, but their {len(theirs)} tensors are gone: set it to 0"
    cuts = list_cuts(evidence) if announced and mine else []
    for name in sorted(theirs):
        new = renamed(name, cuts)
        if new not in (None, name) and name in mine and new not in mine:
            yield f"{name} is a prediction layer's, but fewer layers are left: behind them it is {new}; rename it"
            return
    for name in sorted(mine):
        kin = _trunk_kin(name, evidence.pruned.inventory.tensors)
        if kin is None or name not in evidence.base_inventory.tensors:
            continue
        before, base_kin = evidence.base_inventory.tensors[name].shape, evidence.base_inventory.tensors.get(kin)
        after, trunk = mine[name], evidence.pruned.inventory.tensors[kin].shape
        if base_kin is not None and before == base_kin.shape and after != trunk:
            yield f"{name} has shape {list(after)}, the trunk's {list(trunk)}: the prediction layers were left unpruned"
            return


def _prediction_tensors(side: Checkpoint) -> dict[str, tuple[int, ...]]:
    names = [*side.naming.ignored, *side.naming.unexpected]
    layers = {n.rpartition(".layers.")[2].split(".")[0] for n in names if ".layers." in n}
    extra = {n for n in names if _PREDICTION_NAMES.search(n) or n.rpartition(".layers.")[2].split(".")[0] in layers}
    return {name: side.inventory.tensors[name].shape for name in extra}


def _trunk_kin(name: str, tensors: Mapping[str, Any]) -> str | None:
    """A tensor of the same ending in the last trunk layer that has one."""
    ending = re.sub(r"^.*?layers\.\d+\.", "", name)
    match = [n for n in tensors if n != name and n.endswith("." + ending) and not _PREDICTION_NAMES.search(n)]
    number = re.search(r"layers\.(\d+)\.", name)
    match = [n for n in match if number is None or f"layers.{number.group(1)}." not in n]
    return max(match, default=None)
