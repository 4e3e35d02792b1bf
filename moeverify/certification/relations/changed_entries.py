"""Entries of the configuration that differ from the base's: explained by sizes, layers and routers, or by nothing."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from moeverify.certification.evidence import Evidence, NotVisible
from moeverify.certification.matching.keys import as_bits
from moeverify.certification.relations.entries import GROUPS, TOP_K, Entry, differing, gives_shapes, is_count
from moeverify.certification.relations.positions import announces_fewer
from moeverify.certification.relations.same_in_base import list_cuts
from moeverify.certification.structure.axes import skeleton_with
from moeverify.models.folder.skeleton import Skeleton
from moeverify.models.module_lists import ListCut

PREDICTION = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers")

# Entries that say how far a token sees, which no removal changes.
_WINDOW = re.compile(r"(^|_)window(_size)?$|attention_chunk_size$")
# Entries that may hold numbers of layers.
_OF_LAYERS = re.compile(r"layer|dense|first_k")
# Entries that are tried together, in threes.
_AT_MOST = 8


def judge_entries(evidence: Evidence) -> tuple[list[str], list[str]]:
    """Entries that differ without a reason, and those whose reason cannot be seen."""
    faults: list[str] = []
    unsure: list[str] = []
    before, after = evidence.base.skeleton.config.to_dict(), evidence.pruned.skeleton.config.to_dict()
    entries = sorted(differing(before, after), key=lambda e: e.path)
    giving = [e for e in entries if is_count(e.before) and gives_shapes(evidence.pruned.skeleton, e)]
    sizes, cuts = {(e.before, e.after) for e in giving}, list_cuts(evidence)
    for entry in entries:
        if _WINDOW.search(entry.key):
            faults.append(f"{entry}: no removal explains that")
            continue
        if is_count(entry.before) and (entry.before, entry.after) in sizes:
            continue  # a size, or a number that follows one
        if any(_follows_layers(entry, cut) for cut in cuts) or announces_fewer(evidence, entry):
            continue
        fault, doubt = _judge(evidence, entry)
        faults += [fault] if fault else []
        unsure += [doubt] if doubt else []
    faults += _stale(before, after, cuts)
    unsure += _regrouped(evidence.pruned.skeleton, giving)
    return faults, unsure


def _follows_layers(entry: Entry, cut: ListCut) -> bool:
    """Whether an entry holds numbers of layers, or how many layers come first, and follows the layers that stayed."""
    places = {int(old): new for new, old in enumerate(cut.kept)}
    if isinstance(entry.before, list | tuple):
        numbers = [n for n in entry.before if is_count(n) and 0 <= n < cut.before]
        if len(numbers) < len(entry.before) or not isinstance(entry.after, list | tuple):
            return False
        return list(entry.after) == [places[n] for n in numbers if n in places]
    if not is_count(entry.before) or not is_count(entry.after) or not _OF_LAYERS.search(entry.key):
        return False
    return entry.after in (places.get(entry.before), int((cut.kept < entry.before).sum()))


def _stale(before: Mapping[str, Any], after: Mapping[str, Any], cuts: Sequence[ListCut]) -> Iterator[str]:
    """Lists with one item for each layer of the base that still hold all of them: layers read those of others."""
    for key, items in before.items():
        if isinstance(items, Mapping) and isinstance(after.get(key), Mapping):
            yield from _stale(items, after[key], cuts)
        if not isinstance(items, list | tuple) or list(items) != list(after.get(key) or ()) or "layer" not in key:
            continue
        for cut in (cut for cut in cuts if cut.before == len(items)):
            kept = [items[n] for n in cut.kept]
            if kept != list(items[: len(kept)]):
                yield f"{key} has {len(items)} items, but {len(kept)} layers are left, of which it says {kept}"


def _regrouped(skeleton: Skeleton, giving: Sequence[Entry]) -> Iterator[str]:
    """Sizes that changed although none of their shapes did: fewer and larger heads, more and smaller ones.

    Example: half as many heads of twice the size. Set back together, every shape stays as it is.
    """
    shrunk = [e for e in giving if is_count(e.after) and e.after < e.before][:_AT_MOST]
    for grown in (e for e in giving if is_count(e.after) and e.after > e.before):
        several = itertools.chain.from_iterable(itertools.combinations(shrunk, count) for count in (1, 2, 3))
        for others in several:
            back = skeleton_with(skeleton, {e.path: e.before for e in (grown, *others)})
            if back is not None and back.shapes == skeleton.shapes:
                yield f"{'; '.join(map(str, (grown, *others)))}, while no shape changed: parts were grouped anew"
                break


def _judge(evidence: Evidence, entry: Entry) -> tuple[str, str]:
    """Faults of an entry, and open questions about it; empty where it is explained."""
    if isinstance(entry.before, list) and isinstance(entry.after, list):
        return _list(evidence, entry)
    if entry.key == "tie_word_embeddings":
        return _tied(evidence, entry), ""
    if is_count(entry.before) and is_count(entry.after):
        if GROUPS.search(entry.key):
            return "", ""  # the relation topology judges these
        if TOP_K.search(entry.key):
            return _top_k(evidence, entry)
        if entry.key in PREDICTION:
            return (f"{entry}: no removal adds prediction layers", "") if entry.after > entry.before else ("", "")
        return "", str(entry)
    if isinstance(entry.before, float) or isinstance(entry.after, float):
        return _number(evidence, entry)
    if gives_shapes(evidence.pruned.skeleton, entry):
        return "", ""
    return f"{entry}: no removal explains that", ""


def _tied(evidence: Evidence, entry: Entry) -> str:
    """Tensors may be tied that are equal in the base; those that were are compared where they are two."""
    base = evidence.base
    for one, other in evidence.pruned.skeleton.tied.items():
        names = [base.twins.get(name, name) for name in (one, other)]
        apart = names[0] != names[1] and all(name in base.readable for name in names)
        if apart and not torch.equal(*(as_bits(base.read(name)) for name in names)):
            return f"{entry}: {names[0]} and {names[1]} of the base hold other values than each other"
    return ""


def _top_k(evidence: Evidence, entry: Entry) -> tuple[str, str]:
    if entry.after > entry.before:
        return f"{entry}: more experts a token than in the base", ""
    try:
        counts = [len(experts) for experts in evidence.keep.experts.values()]
    except NotVisible:
        counts = []
    if counts and entry.before <= min(counts):
        return f"{entry}: {min(counts)} experts are left, so nothing asked for fewer a token", ""
    return "", ""


def _number(evidence: Evidence, entry: Entry) -> tuple[str, str]:
    """Numbers that a configuration class derives from sizes follow them; others must stay."""
    if not any(_mentions(side.config, entry.key) for side in (evidence.inventory, evidence.base_inventory)):
        return "", f"{entry} (derived by transformers)"
    return f"{entry}: no removal explains that", ""


def _mentions(config: Mapping[str, Any], key: str) -> bool:
    """Whether a stored configuration has an entry of this name."""
    return key in config or any(_mentions(value, key) for value in config.values() if isinstance(value, Mapping))


def _list(evidence: Evidence, entry: Entry) -> tuple[str, str]:
    """A list with one entry a layer holds those of the layers that stayed."""
    try:
        lists = evidence.keep.lists
    except NotVisible:
        return "", str(entry)
    for path, numbers in lists.items():
        whole = sum(1 for _ in _numbers_of(evidence.base.shapes, path))
        if len(entry.before) == whole and (numbers >= 0).all():
            expected = [entry.before[n] for n in numbers]
            if entry.after == expected:
                return "", ""
            if len(entry.after) != len(numbers):
                return f"{'.'.join(entry.path)} has {len(entry.after)} entries for {len(numbers)} layers", ""
            wrong = next(n for n, (a, b) in enumerate(zip(entry.after, expected, strict=True)) if a != b)
            source = int(numbers[wrong])
            return (
                f"{'.'.join(entry.path)}[{wrong}] is {entry.after[wrong]!r}, but layer {wrong} is base layer {source}, "
                f"a {expected[wrong]!r}"
            ), ""
    if gives_shapes(evidence.pruned.skeleton, entry):
        return "", ""
    return f"{entry}: no removal explains that", ""


def _numbers_of(shapes: Mapping[str, Any], path: str) -> set[str]:
    return {name[len(path) + 1 :].split(".")[0] for name in shapes if name.startswith(path + ".")}
