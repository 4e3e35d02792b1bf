"""Evidence that a check may use: the original, the pruned model, and what can be recovered from the two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moeverify.base.foreign import left_by
from moeverify.checks.evidence.behaviour import Behaviour, observe
from moeverify.checks.evidence.folding import FoldedWeight, with_constants
from moeverify.checks.evidence.kept import Kept, recover_kept, source_names, tensors_of
from moeverify.checks.evidence.liveness import Laboratory
from moeverify.checks.evidence.router_tensors import experts_now, with_router_axes
from moeverify.checks.evidence.routing import router_matrices
from moeverify.checks.evidence.stayed import comparable_ids, id_tables, stayed_experts
from moeverify.checks.finding import Finding
from moeverify.coupling.couplings import CouplingMap, trace_couplings
from moeverify.coupling.layouts import with_traced_layouts
from moeverify.errors import MoEVerifyError
from moeverify.evaluation.settings import QualitySettings
from moeverify.models.drawn import Drawer
from moeverify.models.lengths import Lengths, lengths_for, position_numbers
from moeverify.models.numerics import in_float64
from moeverify.models.roles import FoundRoles, MoELayer, Roles, find_roles
from moeverify.serving.settings import SECONDS
from moeverify.subjects import Pruned, Subject


@dataclass(frozen=True)
class Saved:
    """Folder to which the subject's process saved its own model, or in ``problem`` the reason why it could not.

    ``by_subject``: the subject wrote the folder itself, and the model was loaded from there.
    """

    folder: Path
    problem: str = ""
    by_subject: bool = False


# Stands for the length of the example inputs as they are.
EXAMPLE_LENGTH = 0


def input_lengths(drawer: Drawer, pruned: nn.Module) -> Lengths:
    """Lengths that the original takes beside the example's: longer than any window of either model where that is
    affordable, and shorter.
    """
    if (sequence := drawer.sequence) is None:
        return Lengths()
    numbers = position_numbers(drawer.model, drawer.example) | position_numbers(pruned, drawer.example)
    size = sum(p.numel() for p in drawer.model.parameters())
    lengths = lengths_for(sequence, numbers, size)
    if lengths.longer is not None and drawer.in_length(lengths.longer) is None:
        lengths = lengths_for(sequence, (), size)  # such as a table of positions that ends before
    longer, shorter = (n if n is not None and drawer.in_length(n) else None for n in (lengths.longer, lengths.shorter))
    return Lengths(longer, shorter, lengths.beyond)


@dataclass
class Context:
    """One case after the subject has pruned.

    ``original`` is an untouched copy, ``pruned`` the model that the subject changed in place, ``example_inputs`` those
    of the source. ``outcome`` is the subject's report on its groups (empty for a plain function). ``subject`` is the
    function itself, for checks that let it prune again; ``tokenizer`` is where the source's tokenizer is loaded from,
    ``None`` if it has none. What a check puts into ``facts`` is kept with the case for the report. ``ratios`` are
    pruning ratios by role where they differ from ``pruning_ratio``; ``round_to`` is the rounding that was asked for,
    and ``ignore`` the paths of layers whose outputs were to stay, and of parameters that were to stay whole.
    ``live_outputs`` are what the subject's own model computed, by length of the input (``EXAMPLE_LENGTH`` for the
    example as it is); ``None`` if ``pruned`` is that model. ``saved`` is where the subject's process saved it.
    ``rules`` name experts, routers and shared experts; ``None`` for the usual names. ``certify`` judges a folder
    against a base. ``engines`` are those that the check ``served`` asks, each for at most ``engine_timeout`` seconds.
    """

    source: str
    original: nn.Module
    pruned: nn.Module
    example_inputs: Any
    outcome: Pruned
    pruning_ratio: float
    seed: int
    dtype: str
    subject: Subject | None = None
    tokenizer: str | None = None
    quality: QualitySettings = field(default_factory=QualitySettings)
    facts: dict[str, Any] = field(default_factory=dict)
    ratios: Mapping[str, float] = field(default_factory=dict)
    round_to: int | None = None
    ignore: tuple[str, ...] = ()
    live_outputs: Mapping[int, Mapping[str, torch.Tensor]] | None = None
    saved: Saved | None = None
    rules: Roles | None = None
    certify: Callable[[nn.Module, Path], Finding] | None = None
    engines: tuple[str, ...] = ()
    engine_timeout: float = SECONDS

    def ratio_of(self, role: str) -> float:
        """The share of its units that a class of this role was to lose."""
        return self.ratios.get(role, self.pruning_ratio)

    @cached_property
    def _found_roles(self) -> FoundRoles:
        return find_roles(self.original, self.rules)

    @cached_property
    def roles(self) -> FoundRoles:
        """Roles found in the original model."""
        found = with_traced_layouts(self.original, self._found_roles, self.couplings)
        return with_router_axes(self.original, found, self.couplings)

    @cached_property
    def pruned_roles(self) -> FoundRoles:
        """MoE layers of the pruned model: those of the original without removed experts, which are renumbered."""
        left = ((layer, experts_now(self.pruned, layer)) for layer in self.roles.layers)
        layers = (replace(x, experts=x.experts[:count], members=x.members[:count]) for x, count in left)
        return replace(self.roles, layers=tuple(layers))

    @cached_property
    def source_names(self) -> Mapping[str, str]:
        """For each tensor of the pruned model its name in the original (removed experts shift the others)."""
        return source_names(self.original, self.pruned, self.roles)

    @cached_property
    def router_matrices(self) -> Mapping[str, tuple[str, ...]]:
        """MoE layer → names in the pruned model of the matrices that give its logits in the original."""
        now = {source: name for name, source in self.source_names.items()}
        found = router_matrices(self.original, self.roles)
        return {layer: tuple(now.get(name, name) for name in names) for layer, names in found.items()}

    @cached_property
    def behaviour(self) -> Behaviour:
        """Behaviour of the original itself on drawn inputs."""
        return observe(self.original, self.example_inputs, self.seed)

    @cached_property
    def laboratory(self) -> Laboratory:
        """The original in float64, and gradients of it with channels held at zero."""
        return Laboratory(self.original, self.roles, self.example_inputs, self.seed)

    @cached_property
    def without_laboratory(self) -> str:
        """Why the original gives no gradients in float64, with the remedy; empty if it does."""
        try:
            self.laboratory  # noqa: B018
        except Exception as error:  # whatever the original raises: nothing of the subject has part in it
            return (
                f"the original gives no gradients in float64: {left_by(error)}; give example inputs in tensors, lists, "
                "dicts or dataclasses, which can be cast"
            )
        return ""

    @cached_property
    def couplings(self) -> CouplingMap | None:
        """Our own trace of the original; ``None`` where it cannot be traced."""
        try:
            return trace_couplings(self.original, self.example_inputs, roles=self._found_roles)
        except MoEVerifyError:
            return None

    @cached_property
    def couplings_by_roles(self) -> CouplingMap:
        """Our own trace of the original by ``roles``: ``couplings`` itself, unless those changed the lists of experts.

        Nothing else of the roles enters a trace. Raises ``MoEVerifyError`` where the original cannot be traced.
        """
        if self.couplings is not None and _listed(self.roles) == _listed(self._found_roles):
            return self.couplings
        return trace_couplings(self.original, self.example_inputs, roles=self.roles)

    @cached_property
    def drawer(self) -> Drawer:
        """Draws further inputs that the original accepts."""
        return Drawer(self.original, self.example_inputs)

    @cached_property
    def float64_drawer(self) -> Drawer:
        """Draws further inputs that the original in float64 accepts."""
        return Drawer(in_float64(self.original), self.example_inputs, torch.float64)

    def draw(self, number: int, *, float64: bool = False, length: int | None = None) -> Any:
        """Further inputs by number, in the example's length or another of ``lengths``."""
        drawer = self.float64_drawer if float64 else self.drawer
        drawer = (length is not None and drawer.in_length(length)) or drawer
        return drawer.draw(self.seed + number).inputs

    @cached_property
    def lengths(self) -> Lengths:
        """Lengths of inputs beside the example's that the original takes."""
        return input_lengths(self.drawer, self.pruned)

    @cached_property
    def kept(self) -> Mapping[tuple[str, int], Kept]:
        """Kept positions of each tensor's dimension, by original name, recovered from values alone."""
        return recover_kept(self.folded, self.pruned, self.source_names, self._partners)

    @cached_property
    def stayed(self) -> Mapping[str, list[int]]:
        """For each MoE layer the experts that stayed, in their present order."""
        return stayed_experts(self.original, self.pruned, self.roles, self.kept)

    @cached_property
    def id_tables(self) -> Mapping[str, MoELayer]:
        """Tables of expert ids, by name, with the layer; only of layers that lost experts."""
        return {
            name: layer
            for layer in self.roles.layers
            if len(self.stayed[layer.name]) < len(layer.experts)
            for name in id_tables(self.original, layer)
        }

    @property
    def _partners(self) -> dict[tuple[str, int], frozenset[tuple[str, int]]]:
        """For each dimension the others that hold its channels in the same order, by our trace of the original."""
        result: dict[tuple[str, int], frozenset[tuple[str, int]]] = {}
        for coupling in () if self.couplings is None else self.couplings.classes:
            alike: dict[bytes, set[tuple[str, int]]] = {}
            for member in coupling.members:
                alike.setdefault(member.positions.tobytes(), set()).add((member.parameter, member.dim))
            for places in alike.values():
                result |= {place: frozenset(places - {place}) for place in places}
        return result

    @property
    def folds(self) -> tuple[FoldedWeight, ...]:
        """Weights that took over a constant changed by the new sizes, as the subject claims."""
        plan = self.outcome.plan
        return () if plan is None else plan.folds

    @cached_property
    def folded(self) -> nn.Module:
        """The original with ``folds`` in its weights and the new constants, for comparing values; it does not compute
        the same.
        """
        plan = self.outcome.plan
        if plan is None or not (plan.folds or plan.constants):
            return self.original
        return with_constants(self.original, plan.folds, plan.constants)

    def pairs(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Tensors of both models: original name, the original's tensor (constants folded), the pruned model's tensor.

        Tables of expert ids are given in the original's numbering. Exception: ids of removed experts are replaced as in
        the pruned model's table. Left out: a buffer of unchanged shape that a forward writes, since the subject may
        have run one.
        """
        before = tensors_of(self.folded)
        changing = {name for name in self.behaviour.changes if name in dict(self.original.named_buffers())}
        for name, tensor in tensors_of(self.pruned).items():
            source = self.source_names.get(name, name)
            if source not in before or (source in changing and before[source].shape == tensor.shape):
                continue
            layer = self.id_tables.get(source)
            ids = comparable_ids(before[source], tensor, self.stayed[layer.name]) if layer else None
            yield (source, *(ids or (before[source], tensor)))


def _listed(roles: FoundRoles) -> list[tuple[str, ...]]:
    """The lists of experts that a trace runs on the tokens of their siblings."""
    return [layer.experts for layer in roles.layers if layer.layout == "listed"]
