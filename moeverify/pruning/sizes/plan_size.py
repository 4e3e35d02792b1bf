"""Sizes before and after pruning, legal numbers of experts and limits of engines, without any weight.

The pruner itself makes the plan, on a model whose tensors lie on the meta device. Which channels and experts stay makes
no difference for sizes, so the first ones do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from moeverify.base.entries import name_of
from moeverify.coupling.classify import PruningClass
from moeverify.coupling.layouts import roles_of
from moeverify.errors import SourceError
from moeverify.models.checkpoints import quiet_transformers
from moeverify.models.engines.entries import router_sizes
from moeverify.models.engines.limit import Limit, exceeded
from moeverify.models.engines.table import LIMITS
from moeverify.models.forward import Example
from moeverify.models.full_size import load_full_size
from moeverify.models.left_alone import named_parts
from moeverify.models.roles import Roles
from moeverify.models.skeleton import has_config
from moeverify.models.sources import LoadedModel
from moeverify.pruning.configuration import Probe
from moeverify.pruning.experts.facts import ExpertFacts, facts_of
from moeverify.pruning.experts.removal import ExpertLayout, expert_layout
from moeverify.pruning.experts.topology import Topology
from moeverify.pruning.plan.plan import Plan
from moeverify.pruning.pruner import MoEPruner
from moeverify.pruning.sizes.by_role import Size, largest_layer, sizes_by_role
from moeverify.pruning.sizes.streaming_needs import DEFAULT_SPEED, StreamingNeeds, streaming_needs

FORMAT = "moeverify-plan-size/1"


class _TheFirst:
    """An importance for models without weights: earlier channels count more."""

    def __call__(self, group: Any) -> None:
        return None

    def score_class(self, pruning_class: PruningClass) -> torch.Tensor:
        """Scores in descending order of units, so that the first units stay."""
        scores = torch.arange(pruning_class.coupling.size, 0, -1).float()
        return scores.expand(pruning_class.experts, -1) if pruning_class.experts else scores


@dataclass(frozen=True)
class PlannedSize:
    """Sizes that pruning a model of this configuration gives.

    ``before`` and ``after`` are sizes by role, ``entries`` the configuration's new ones. ``experts`` holds the numbers
    that layers keep, ``facts`` the legal ones by MoE layer, ``parallel`` the expert-parallel sizes that divide them.
    ``limits`` is what engines ask for and the result does not fulfil, ``left_alone`` what keeps more than was asked.
    """

    source: str
    model_type: str
    before: Mapping[str, Size]
    after: Mapping[str, Size]
    entries: Mapping[str, int]
    experts: tuple[int, ...]
    facts: tuple[ExpertFacts, ...]
    limits: tuple[Limit, ...]
    parallel: tuple[int, ...]
    streaming: StreamingNeeds
    left_alone: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain data, under the format ``moeverify-plan-size/1``."""

        def plain(sizes: Mapping[str, Size]) -> dict[str, Any]:
            return {part: asdict(size) for part, size in {**sizes, "total": total(sizes)}.items()}

        return {
            "format": FORMAT,
            "source": self.source,
            "model_type": self.model_type,
            "before": plain(self.before),
            "after": plain(self.after),
            "entries": dict(self.entries),
            "experts": list(self.experts),
            "layers": [facts.to_dict() for facts in self.facts],
            "engine_limits": [limit.to_dict() for limit in self.limits],
            "expert_parallel_sizes": list(self.parallel),
            "streaming": asdict(self.streaming),
            "left_alone": list(self.left_alone),
        }


def plan_size(
    source: str,
    *,
    pruning_ratio: float | None = None,
    ratios: Mapping[str, Any] | None = None,
    round_to: int | None = None,
    ignore: Sequence[str] = (),
    roles: Roles | None = None,
    expert_parallel: int = 1,
    speed: float = DEFAULT_SPEED,
    trust_remote_code: bool = False,
) -> PlannedSize:
    """Sizes that pruning by these ratios gives, from a ``config.json``, a folder, a hub name or ``zoo:TYPE``.

    ``pruning_ratio`` is 0 unless given: what ``ratios`` does not name stays, and so do the outputs of layers in
    ``ignore``. ``speed`` is that of the disk in GiB a second. Raises ``SourceError`` for a configuration that gives no
    model, ``PruningRefused`` for numbers that are illegal or that the configuration cannot express.
    """
    with quiet_transformers():
        loaded = load_full_size(source, trust_remote_code=trust_remote_code)
        model = loaded.model
        if not has_config(model):
            raise SourceError(
                f"{source} is a model without a configuration, from which sizes are computed; give a config.json, a "
                "checkpoint folder, a hub name or zoo:TYPE, or look at the model with `moeverify inspect`"
            )
        plan = Plan((), {})
        if pruning_ratio or any(ratios.values() if ratios else ()):
            plan = _plan(loaded, pruning_ratio or 0.0, ratios or {}, round_to, ignore, roles)
        pruned = Probe(model).build(plan.entries) if plan.entries else model
    found = roles_of(model, loaded.example_inputs, roles)
    layout = expert_layout(model, found, Example(loaded.example_inputs)) if found.layers else None
    routers = _routers(layout, plan)
    counts = sorted({router.count for router in routers})
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    remaining = found if pruned is model else roles_of(pruned, loaded.example_inputs, roles)
    before, after = sizes_by_role(model, found), sizes_by_role(_cast(pruned, model), remaining)
    return PlannedSize(
        source=source,
        model_type=kind,
        before=before,
        after=after,
        entries={name_of(path): value for path, value in plan.entries.items()},
        experts=tuple(counts),
        facts=facts_of(layout) if layout else (),
        limits=tuple(dict.fromkeys(limit for rules in routers for limit in outside(rules, kind, expert_parallel))),
        parallel=tuple(parallel_sizes(math.gcd(*counts))) if counts else (),
        streaming=streaming_needs(total(before), total(after), largest_layer(model), speed),
        left_alone=tuple(str(adjustment) for adjustment in plan.adjustments),
    )


def outside(rules: Topology, model_type: str = "", expert_parallel: int = 1) -> list[Limit]:
    """The limits of engines that a router exceeds when it is served on ``expert_parallel`` devices."""
    sizes = router_sizes(rules.count, rules.groups, rules.chosen_groups, expert_parallel)
    return exceeded(LIMITS, sizes, model_type)


def parallel_sizes(count: int, most: int = 64) -> list[int]:
    """Powers of two that divide a number of experts: the expert-parallel sizes that it can be served with."""
    return [size for power in range(most.bit_length()) if count % (size := 2**power) == 0 and size <= most]


def total(sizes: Mapping[str, Size]) -> Size:
    """The sum over all roles."""
    return sum(sizes.values(), Size())


def _plan(
    loaded: LoadedModel,
    pruning_ratio: float,
    ratios: Mapping[str, Any],
    round_to: int | None,
    ignore: Sequence[str],
    roles: Roles | None,
) -> Plan:
    """The plan that the pruner makes without weights; the model's outputs stay, as in ``moeverify prune``."""
    return MoEPruner(
        loaded.model,
        loaded.example_inputs,
        importance=_TheFirst(),
        pruning_ratio=pruning_ratio,
        ratios=ratios,
        round_to=round_to,
        roles=roles,
        ignored_layers=[*_head(loaded.model), *named_parts(loaded.model, ignore)],
        expert_criterion=lambda evidence: torch.arange(len(evidence.weights.flat), 0, -1),
    ).plan()


def _head(model: nn.Module) -> list[nn.Module]:
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return [head] if isinstance(head, nn.Module) else []


def _routers(layout: ExpertLayout | None, plan: Plan) -> list[Topology]:
    """The rules of every router with the number of experts that it keeps."""
    if layout is None:
        return []
    kept = {cut.layer: cut.after for cut in plan.experts}
    return [replace(rules, count=kept.get(layer, rules.count)) for layer, rules in layout.topologies.items()]


def _cast(pruned: nn.Module, model: nn.Module) -> nn.Module:
    """The pruned skeleton in the precisions of the model."""
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    for name, tensor in (*pruned.named_parameters(), *pruned.named_buffers()):
        if tensor.dtype != dtypes.get(name, tensor.dtype):
            tensor.data = tensor.data.to(dtypes[name])
    return pruned
