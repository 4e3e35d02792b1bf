"""``expert-permutation``"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from moeverify.suites.properties.registry import prop
from moeverify.suites.properties.trial import NotApplicable, Trial, differing, require
from synthetic_models import Spec
from synthetic_models.names import FAMILIES


@prop("expert-permutation")
def expert_permutation(trial: Trial) -> None:
    """Experts in another order, with the router's rows in that order, give the same result in that order."""
    # In float64, since the order of a sum over experts is another one.
    spec = replace(trial.spec, dtype="float64")
    order = permutation(spec)
    if order == list(range(spec.experts)):
        raise NotApplicable("the spec gives each expert a place of its own")
    first, second = trial.model(spec), trial.model(replace(spec, widths=tuple(spec.widths[e] for e in order)))
    second.load_state_dict(permuted(first, spec, order))
    trial.prune(first)
    trial.prune(second)
    expected = trial.model(spec)
    for name, value in permuted(first, spec, order).items():
        owner, _, leaf = name.rpartition(".")
        tensors = expected.get_submodule(owner)
        (tensors._buffers if leaf in tensors._buffers else tensors._parameters)[leaf] = nn.Parameter(
            value, requires_grad=False
        )
    lines = differing(expected, second)
    require(not lines, f"with experts in the order {order}, {len(lines)} tensors differ: {lines[:1]}")


def permutation(spec: Spec) -> list[int]:
    """An order that the spec allows: ``order[n]`` is the old number of the new expert ``n``.

    Chained and tied experts stay at their places, and groups of a group-limited router stay together.
    """
    fixed = max(spec.strength("chain"), spec.strength("tied_experts"))
    start = fixed + 1 if fixed else 0
    numbers = list(range(spec.experts))
    if spec.router == "group_limited":
        half = spec.experts // 2
        return numbers if fixed else [*numbers[half:], *numbers[:half]]
    if spec.router == "hash":
        return numbers  # the table is part of the program
    return [*numbers[:start], *reversed(numbers[start:])]


def permuted(model: nn.Module, spec: Spec, order: list[int]) -> dict[str, torch.Tensor]:
    """The state of ``model`` with the experts of every MoE layer, and the router's rows, in another order."""
    names = FAMILIES[spec.names]
    state = model.state_dict()
    result = dict(state)
    for key, value in state.items():
        parts = key.split(".")
        if names.experts in parts:
            at = parts.index(names.experts)
            if spec.storage == "listed":
                old = [*parts[: at + 1], str(order[int(parts[at + 1])]), *parts[at + 2 :]]
                result[key] = state[".".join(old)]
            else:
                result[key] = value[order]
        elif names.router in parts and parts[-2] == names.router and value.shape[:1] == (spec.experts,):
            result[key] = value[order]
    return result
