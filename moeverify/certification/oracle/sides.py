"""The models that a numeric proof runs: base, masked base and pruned model, whole in memory or streamed from disk."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import nn

from moeverify.certification.evidence import Evidence, NotVisible, is_quantised
from moeverify.certification.oracle.layers import LayerSample, leave_out, runs, sample_layers
from moeverify.certification.oracle.reference import kept_positions, leave_out_layers, mask
from moeverify.certification.oracle.rounding import round_alike, roundings
from moeverify.certification.oracle.running import fits, load_model
from moeverify.certification.oracle.stream import Stream
from moeverify.certification.oracle.streamed import STREAMED_VALUES, hide, streamed_model
from moeverify.checks.evidence.forces import Change
from moeverify.models.roles import FoundRoles, find_roles


@dataclass
class Sides:
    """Models of a proof. ``changes`` are what must happen to router logits of ``masked``, by MoE layer.

    ``stream`` must be active while they run. ``sample`` names the layers that run where not all of them do.
    """

    full: nn.Module
    masked: nn.Module
    pruned: nn.Module
    changes: dict[str, Change]
    roles: FoundRoles
    pruned_roles: FoundRoles
    stream: contextlib.AbstractContextManager[object] = field(default_factory=contextlib.nullcontext)
    sample: LayerSample | None = None

    def runs(self, module: str) -> bool:
        """Whether a module of the pruned model runs."""
        return self.sample is None or runs(module, self.sample.path, self.sample.numbers)


def make_sides(evidence: Evidence, *, at_least: int = STREAMED_VALUES) -> Sides:
    """Base, masked base and pruned model. Raises ``NotVisible`` if one of them cannot be loaded."""
    roles, device = evidence.structure.roles, evidence.options.device
    if fits(evidence):
        full = load_model(evidence.base_folder, device)
        round_alike(full, roundings(evidence))
        pruned = load_model(evidence.pruned_folder, device)
        masked = copy.deepcopy(full)
        pruned_roles = find_roles(pruned, evidence.options.roles)
        changes = mask(masked, evidence.keep, pruned)
        leave_out_layers(masked, evidence.keep)
        return Sides(full, masked, pruned, changes, roles, pruned_roles)
    _check_plain(evidence)
    stream, types = Stream(), roundings(evidence)
    full, apart = streamed_model(evidence.base, device, stream, at_least=at_least)
    masked, _ = streamed_model(evidence.base, device, stream, at_least=at_least)
    for model in (full, masked):
        round_alike(model, types, apart, stream)
    pruned, _ = streamed_model(evidence.pruned, device, stream, at_least=at_least)
    pruned_roles = evidence.pruned_roles
    hide(stream, masked, apart, kept_positions(evidence.keep))
    changes = mask(masked, evidence.keep, pruned, unloaded=apart)
    leave_out_layers(masked, evidence.keep)
    sample = None
    if evidence.options.oracle == "sample":
        sample = sample_layers(pruned, evidence.options.seed)
        leave_out(pruned, sample.path, sample.numbers)
        numbers = _in_base(evidence.keep.lists, sample)
        for model in (full, masked):
            leave_out(model, sample.path, numbers)
        changes = {n: c for n, c in changes.items() if runs(n, sample.path, numbers)}
    return Sides(full, masked, pruned, changes, roles, pruned_roles, stream, sample)


class Alone(NamedTuple):
    """A model, the stream that must be active while it runs, and the sample of layers that run (``None`` for all)."""

    model: nn.Module
    stream: contextlib.AbstractContextManager[object]
    sample: LayerSample | None


def alone(evidence: Evidence, folder: Path, *, at_least: int = STREAMED_VALUES) -> Alone:
    """The model of one of the two folders. Raises ``NotVisible`` if it cannot be loaded."""
    if fits(evidence):
        return Alone(load_model(folder, evidence.options.device), contextlib.nullcontext(), None)
    _check_plain(evidence)
    stream = Stream()
    side = evidence.base if folder == evidence.base_folder else evidence.pruned
    model, _ = streamed_model(side, evidence.options.device, stream, at_least=at_least)
    if evidence.options.oracle != "sample":
        return Alone(model, stream, None)
    sample = sample_layers(model, evidence.options.seed)
    leave_out(model, sample.path, sample.numbers)
    return Alone(model, stream, sample)


def _in_base(lists: Mapping[str, np.ndarray], sample: LayerSample) -> tuple[int, ...]:
    """The base's numbers of the layers in a sample."""
    numbers = lists.get(sample.path)
    base_numbers = sample.numbers if numbers is None else tuple(int(numbers[n]) for n in sample.numbers)
    if min(base_numbers, default=0) < 0:
        raise NotVisible("some layers are not known of the base, so that there is no reference")
    return base_numbers


def _check_plain(evidence: Evidence) -> None:
    """Raise ``NotVisible`` for packed weights, which only a kernel of theirs reads."""
    if is_quantised(evidence.inventory.config) or is_quantised(evidence.base_inventory.config):
        raise NotVisible("not run: the weights are quantised and too large to be loaded; dequantise them first")
