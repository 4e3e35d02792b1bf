"""``selection``"""

from __future__ import annotations

import torch

from moeverify.certification.classify import Classes, Headline, repeated_experts
from moeverify.certification.evidence import Evidence
from moeverify.certification.matching.compare import Relation
from moeverify.certification.mixed_types import cast_words
from moeverify.certification.relations.registry import inconclusive, more, relation
from moeverify.certification.relations.values import classes_of, line, outputs_are_right, share_of_bytes, show
from moeverify.checks.registry import Finding, failed, passed

_NOT_JUDGED = (Headline.MERGED, Headline.COPIES, Headline.RETRAINED, Headline.UNDERIVED, Headline.PARTLY)


@relation("selection")
def selection(evidence: Evidence) -> Finding:
    """The experts' weights are those of experts of the base, each kept once; or the folder is of another class.

    Merged and re-trained folders are not judged by their values: what was found of them is reported.
    """
    classes = classes_of(evidence)
    kept = {
        evidence.structure.roles.layers[number].name: experts.tolist()
        for number, experts in evidence.keep.experts.items()
    }
    facts = {
        "class": classes.headline.value,
        "experts": kept,
        "share_of_bytes_unchanged": round(share_of_bytes(evidence.compared), 6),
        "altered_kinds": list(classes.altered_kinds),
        "mixtures": [vars(mixture) for mixture in classes.mixtures[:64]],
    }
    faults = [i for i in classes.faults if i.role == "experts" and i.relation is not Relation.MOVED]
    lines = [*_twice(evidence), *map(line, faults)]
    if lines:
        return failed(more(lines), differences=show(faults), **facts)
    if classes.headline in _NOT_JUDGED:
        return inconclusive(_report(classes), differences=show(classes.reported), **facts)
    unmapped = [item for item in classes.reported if item.relation is Relation.UNMAPPED]
    unmapped += [i for i in classes.reported if i.role == "experts" and i.relation is Relation.MIXED]
    if unmapped:
        return inconclusive(f"{unmapped[0].where}: {unmapped[0].detail}", differences=show(unmapped), **facts)
    if classes.headline is Headline.RESCALED and not outputs_are_right(evidence):
        first = next(item for item in classes.reported if item.relation is Relation.SCALED)
        return inconclusive(
            f"{first.where} is the base's {first.detail}; whether that makes up for a constant of the architecture is "
            "seen by masked-equivalence",
            differences=show(classes.reported),
            **facts,
        )
    types = {name: stored.dtype for name, stored in evidence.base.naming.tensors.items()}
    notes = [words] if (words := cast_words(evidence.compared, types)) else []
    return passed("; ".join([f"{classes.headline.value}: every value is the base's", *notes]), notes=notes, **facts)


def _twice(evidence: Evidence) -> list[str]:
    """Base experts and layers that stand in two places although others were removed, and layers in another order."""
    lines = []
    for number, experts in repeated_experts(evidence.keep).items():
        layer, places = evidence.structure.roles.layers[number], evidence.keep.experts[number]
        if len(places) < len(layer.experts) and not _equal_in_base(evidence, number, experts[0]):
            where = [n for n, expert in enumerate(places.tolist()) if expert == experts[0]]
            lines.append(f"{layer.name}: base expert {experts[0]} stands in places {where}, while others were removed")
    for path, entries in evidence.keep.lists.items():
        known = [n for n in entries.tolist() if n >= 0]
        if path not in {x.container for x in evidence.structure.roles.layers} and len(set(known)) < len(known):
            twice = next(n for n in known if known.count(n) > 1)
            lines.append(f"{path}: base entry {twice} stands in two places")
        elif any(x.name.startswith(path + ".") for x in evidence.structure.roles.layers) and known != sorted(known):
            lines.append(f"{path} holds layers {known} of the base: layers in another order compute something else")
    return lines


def _equal_in_base(evidence: Evidence, number: int, expert: int) -> bool:
    """Whether the base itself holds an expert more than once; equal copies cannot be distinguished."""
    count = len(evidence.structure.roles.layers[number].experts)
    stacks = [
        name
        for (name, dim), axis in evidence.structure.axes.items()
        if (axis.layer, dim, axis.stride) == (number, 0, 1) and len(evidence.keep.base.get(name, ())) > 2
    ]
    read = evidence.base.read
    return bool(stacks) and any(
        all(torch.equal(read(name, expert), read(name, other)) for name in stacks)
        for other in range(count)
        if other != expert
    )


def _report(classes: Classes) -> str:
    text = f"{classes.headline.value}: values are reported, not judged"
    mixed = next((m for m in classes.mixtures if m.explained and len(m.of) > 1), None)
    if mixed is not None:
        parts = ", ".join(f"{expert} ({share:.2f})" for expert, share in mixed.of[:4])
        return f"{text}; expert {mixed.expert} of {mixed.layer_name} is a mixture of base experts {parts}"
    changed = [item for item in classes.reported if item.relation is Relation.CHANGED]
    if changed:
        worst = max(changed, key=lambda item: item.change)
        return f"{text}; relative change up to {worst.change:.1e} ({worst.where})"
    return text
