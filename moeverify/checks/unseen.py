"""Reasons why nothing was seen of tensors that were cut, each with the remedy that would show it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from moeverify.checks.evidence.sight import Part
from moeverify.coupling.relations import Trace

# Unseen tensors that a message names for each reason.
NAMED = 3

# Reason and remedy; ``{it}`` stands for the tensors.
_TRAINING = (
    "only a training forward uses {it}, in which the outputs differ; cut {it} with the channels that the layer reads, "
    "or leave the layer out (--ignore PATH)"
)
_TWIN = "no forward uses {it}; take {it} out of the model, or give example inputs that use {it}"
_TOKENS = "no token reached {it}; give example inputs that the router sends there"
_UNUSED = "no input used {it}; give example inputs that reach every cut tensor"
_IDLE = (
    "no output depends on {it} although the forward uses {it}; give example inputs on which one does, or take {it} "
    "out of the model"
)
# Which buffers a forward reads is not recorded.
_BUFFER = "no output depends on {it}; give example inputs on which one does, or take {it} out of the model"


def why_unseen(unseen: Collection[Part], trace: Trace | None, unreached: Collection[str]) -> str:
    """The end of a sentence on cut parts that were not seen to matter: which, why, and what would show them.

    ``trace``: that of the original, if it could be traced. ``unreached``: routed experts that no token was sent to.
    """
    groups: dict[str, list[str]] = {}
    for part in unseen:
        groups.setdefault(_reason(part, trace, unreached), []).append(part.label)
    if len(groups) == 1:
        ((reason, labels),) = groups.items()
        was, it = ("was", "it") if len(labels) == 1 else ("were", "them")
        return f"{_named(labels)} {was} cut and {reason.format(it=it)}"
    each = (f"{_named(ls)}: {reason.format(it='it' if len(ls) == 1 else 'them')}" for reason, ls in groups.items())
    return f"{len(unseen)} cut parts were not seen to matter. " + ". ".join(each)


def unreached_experts(parts: Iterable[Part], unseen: Collection[Part], tokens: Mapping[str, int]) -> set[str]:
    """Experts of which nothing was seen and at which no token was counted."""
    experts = {part.expert for part in unseen if part.expert is not None and not tokens.get(part.expert)}
    return experts - {part.expert for part in parts if part.expert is not None and part not in unseen}


def _reason(part: Part, trace: Trace | None, unreached: Collection[str]) -> str:
    source = part.label.partition("[")[0]  # that of a stack ends in the expert's number
    if trace is not None and source in trace.in_training:
        return _TRAINING
    if trace is not None and source in trace.as_twins:
        return _TWIN
    if part.expert in unreached:
        return _TOKENS
    if trace is not None and source in trace.buffers:
        return _BUFFER
    return _UNUSED if trace is None or source in trace.untouched else _IDLE


def _named(labels: list[str]) -> str:
    return ", ".join(labels[:NAMED]) + (f" and {len(labels) - NAMED} more" if len(labels) > NAMED else "")
